"""`retort why`: the funnel of a stage's filtered traces, each rule on its own, and examples to read."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from pipeline.engine.progress import plain
from pipeline.errors import UserError
from pipeline.filter.funnel import Funnel
from pipeline.inspect.format import one_line, percent
from pipeline.inspect.run import Run
from pipeline.inspect.show import console, print_lines
from pipeline.rows import Row, TraceVerdicts

WIDTH = 120  # characters of an example's text


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


def why_of(run: Run, stage: str, examples: int) -> Why:
    """The funnel and the first `examples` traces of each reason. Raises UserError before filtering."""
    if run.output(stage).row is not TraceVerdicts:
        raise UserError(f"{stage} holds no filtered traces: why is for filter and evaluate/SET/MODEL/filter")
    if not run.rows(stage).parts:
        run.check_begun(stage)
        raise UserError(f"{run.path}: nothing is filtered yet; `retort status` shows how far the run is")
    funnel = run.why(stage)
    reasons = (*funnel.rejected, *funnel.undecided)
    found = {reason: tuple(_examples(run, stage, reason, examples)) for reason in reasons}
    return Why(run=run.path.name, stage=stage, funnel=funnel, examples=found)


def print_why(why: Why) -> None:
    funnel = why.funnel
    print_lines(f"{funnel.traces:,} traces = {funnel.kept:,} kept")
    for outcome, reasons in (("rejected", funnel.rejected), ("undecided", funnel.undecided)):
        for reason, count in reasons.items():
            print_lines(f"+ {count:>9,} {percent(count / funnel.traces):>7} {outcome}, {reason}")
            for example in why.examples[reason]:
                evidence, reference = (
                    one_line(t, WIDTH) for t in (example.evidence, example.reference or "-")
                )
                print_lines(f"      {example.id}  {evidence}  (reference: {reference})")
    table = Table("rule", "rejects", "alone", "undecided", box=None)
    for name, rule in funnel.rules.items():
        table.add_row(plain(name), f"{rule.failed:,}", f"{rule.failed_alone:,}", f"{rule.undecided:,}")
    print_lines("")
    console().print(table)


def _examples(run: Run, stage: str, reason: str, count: int) -> Iterator[ExampleTrace]:
    for trace in run.rows(stage).where(reason=reason).head(count):
        verdict = next(v for v in trace.verdicts if f"{v.filter}: {v.reason}" == reason)
        evidence = verdict.evidence or _end(trace.response or trace.reasoning or "")
        yield ExampleTrace(id=trace.id, evidence=evidence, reference=trace.reference)


def _end(text: str) -> str:
    return text if len(text) <= WIDTH else f"...{text[3 - WIDTH :]}"
