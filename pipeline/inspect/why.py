"""`retort why`: the funnel of a stage's traces, each rule on its own, and examples to read.

Before a stage has filtered any trace, its rules are applied to some of the traces so far; nothing is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.table import Table

from filters.table import Rules, verdicts_of
from pipeline.arrow_schema import arrow_schema
from pipeline.config.filters import Filter
from pipeline.engine.progress import plain
from pipeline.errors import UserError
from pipeline.filter.apply import FilterContext, decided, is_by_vote
from pipeline.filter.funnel import Funnel, funnel
from pipeline.inspect.format import one_line, percent
from pipeline.inspect.run import Run
from pipeline.inspect.show import print_grid, print_lines
from pipeline.rows import VERDICT_FIELDS, Row, Trace, TraceVerdicts

WIDTH = 120  # characters of an example's text
PREVIEWED = 1000  # most traces of a preview, sampled uniformly


class ExampleTrace(Row):
    """A trace with the evidence of the verdict that decided it."""

    id: str
    evidence: str  # the end of the response when the verdict has none
    reference: str | None


class Why(Row):
    """The document that `retort why RUN --json` prints."""

    run: str
    stage: str
    funnel: Funnel
    examples: dict[str, tuple[ExampleTrace, ...]]  # by "rule: reason"
    unfiltered: int = 0  # traces so far that the stage has not filtered yet
    preview_of: int | None = None  # the traces so far; of a preview only
    left_out: tuple[str, ...] = ()  # filters that a preview does not apply


def why_of(run: Run, stage: str, examples: int) -> Why:
    """The funnel and the first `examples` traces of each reason. Raises UserError if there is no trace."""
    if run.output(stage).row is not TraceVerdicts:
        raise UserError(f"{stage} holds no filtered traces: why is for filter and evaluate/SET/MODEL/filter")
    if not run.rows(stage).parts:
        return _preview(run, stage, examples)
    counted = run.why(stage)
    found = {
        reason: tuple(map(_example, run.rows(stage).where(reason=reason).head(examples)))
        for reason in (*counted.rejected, *counted.undecided)
    }
    waiting = max(0, len(run.traces_of(stage)) - counted.traces)  # also where more was sampled since
    return Why(run=run.path.name, stage=stage, funnel=counted, examples=found, unfiltered=waiting)


def _preview(run: Run, stage: str, examples: int) -> Why:
    """Applies the rules that see one trace to at most PREVIEWED traces, with no LLM judge."""
    import pyarrow as pa

    traces = run.traces_of(stage)
    if not (so_far := len(traces)):
        run.check_begun(stage)
        raise UserError(f"{run.path}: there is no trace yet; `retort status` shows how far the run is")
    table, rows = run.recipe.filter, []
    ignored = FilterContext(table).ignored
    found: dict[str, list[ExampleTrace]] = {}
    for trace in traces.sample(PREVIEWED):
        verdicts = decided(
            trace.id, trace.problem_id, verdicts_of(trace, rules_of_one(table, trace)), ignored
        )
        filtered = trace.model_copy(update={name: getattr(verdicts, name) for name in VERDICT_FIELDS})
        rows.append(verdicts.model_dump())
        of_reason = found.setdefault(filtered.reason, [])
        if filtered.reason and len(of_reason) < examples:
            of_reason.append(_example(filtered))
    return Why(
        run=run.path.name,
        stage=stage,
        funnel=funnel(pa.Table.from_pylist(rows, arrow_schema(TraceVerdicts))),
        examples={reason: tuple(some) for reason, some in found.items() if reason},
        preview_of=so_far,
        left_out=tuple(_left_out(run, stage)),
    )


def rules_of_one(table: Filter, trace: Trace) -> Rules:
    """The rules that decide about a trace without the LLM judge and its problem's other traces."""
    otherwise = trace.answer_type == "free" or is_by_vote(table, trace)
    return {name: given for name, given in table.rules.items() if name != "correct" or not otherwise}


def _left_out(run: Run, stage: str) -> Iterator[str]:
    if run.recipe.judge is not None:
        yield "the LLM judge"
    if stage == "filter":
        yield from run.recipe.filter.across


def print_why(why: Why) -> None:
    funnel = why.funnel
    if why.preview_of is not None:
        print_lines(*_about_preview(why))
    if why.unfiltered:
        print_lines(f"so far: {why.unfiltered:,} traces are not filtered yet")
    print_lines(f"{funnel.traces:,} traces = {funnel.kept:,} kept")
    for outcome, reasons in (("rejected", funnel.rejected), ("undecided", funnel.undecided)):
        _print_reasons(outcome, reasons, why)
    table = Table("rule", "rejects", "alone", "undecided", box=None)
    for name, rule in funnel.rules.items():
        table.add_row(plain(name), f"{rule.failed:,}", f"{rule.failed_alone:,}", f"{rule.undecided:,}")
    print_lines("")
    print_grid(table)


def _about_preview(why: Why) -> Iterator[str]:
    some = "" if why.funnel.traces == why.preview_of else f"{why.funnel.traces:,} of the "
    yield f"preview of {some}{why.preview_of:,} traces so far: nothing is filtered yet, nothing is stored"
    if why.left_out:
        yield f"left out: {', '.join(why.left_out)}"


def _print_reasons(outcome: str, reasons: Mapping[str, int], why: Why) -> None:
    for reason, count in reasons.items():
        print_lines(f"+ {count:>9,} {percent(count / why.funnel.traces):>7} {outcome}, {reason}")
        for example in why.examples[reason]:
            evidence, reference = (one_line(t, WIDTH) for t in (example.evidence, example.reference or "-"))
            print_lines(f"      {example.id}  {evidence}  (reference: {reference})")


def _example(trace: Trace) -> ExampleTrace:
    verdict = next(v for v in trace.verdicts if f"{v.filter}: {v.reason}" == trace.reason)
    evidence = verdict.evidence or _end(trace.response or trace.reasoning or "")
    return ExampleTrace(id=trace.id, evidence=evidence, reference=trace.reference)


def _end(text: str) -> str:
    return text if len(text) <= WIDTH else f"...{text[3 - WIDTH :]}"
