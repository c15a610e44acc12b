"""`retort why`: the funnel of a stage's judged traces, what each rule does alone, and examples to read."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import shorten

from rich.table import Table

from pipeline.engine.progress import plain
from pipeline.errors import UserError
from pipeline.filter.funnel import Funnel
from pipeline.inspect.run import Run
from pipeline.inspect.show import console
from pipeline.rows import Row, Trace

WIDTH = 120  # characters of an example's text


class Seen(Row):
    """A trace beside what decided it."""

    id: str
    said: str  # the verdict's evidence; without any, the end of the response
    reference: str | None


class Why(Row):
    """What `retort why RUN --json` prints."""

    run: str
    stage: str
    funnel: Funnel
    examples: dict[str, tuple[Seen, ...]]  # by "rule: reason"


def why_of(run: Run, stage: str, examples: int) -> Why:
    """The funnel, the rules, and the first `examples` traces of each reason. UserError before filtering."""
    rows = run.rows(stage)
    if rows.row is not Trace or not stage.endswith("filter"):
        raise UserError(f"{stage} holds no judged traces: why is for filter and evaluate/SET/SUBJECT/filter")
    if not rows.paths:
        run.check_begun(stage)
        raise UserError(f"{run.path}: nothing is filtered yet; `retort status` shows how far the run is")
    funnel = run.why(stage)
    reasons = (*funnel.rejected, *funnel.unknown)
    seen = {reason: tuple(_examples(run, stage, reason, examples)) for reason in reasons}
    return Why(run=run.path.name, stage=stage, funnel=funnel, examples=seen)


def print_why(why: Why) -> None:
    funnel, screen = why.funnel, console()
    screen.print(f"{funnel.traces:,} traces = {funnel.kept:,} kept", highlight=False)
    for what, reasons in (("rejected", funnel.rejected), ("cannot tell", funnel.unknown)):
        for reason, count in reasons.items():
            share = f"{count / funnel.traces:.1%}"
            screen.print(f"+ {count:>9,} {share:>6} {what}, {plain(reason)}", markup=False, highlight=False)
            for seen in why.examples[reason]:
                line = f"{seen.id}  {_one_line(seen.said)}  (reference: {_one_line(seen.reference or '-')})"
                screen.print(f"      {line}", markup=False, highlight=False)
    table = Table("rule", "rejects", "alone", "cannot tell", box=None)
    for name, rule in funnel.rules.items():
        table.add_row(plain(name), f"{rule.fails:,}", f"{rule.alone:,}", f"{rule.unknown:,}")
    screen.print()
    screen.print(table)


def _examples(run: Run, stage: str, reason: str, count: int) -> Iterator[Seen]:
    for trace in run.examples_of(reason, count, stage):
        verdict = next(v for v in trace.verdicts if f"{v.filter}: {v.reason}" == reason)
        yield Seen(id=trace.id, said=verdict.evidence or _end_of(trace), reference=trace.reference)


def _end_of(trace: Trace) -> str:
    text = trace.response or trace.reasoning or ""
    return text if len(text) <= WIDTH else f"...{text[3 - WIDTH :]}"


def _one_line(text: str) -> str:
    return shorten(plain(text), WIDTH, placeholder="...")
