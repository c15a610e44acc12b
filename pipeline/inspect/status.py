"""`retort status`: what the stages of a run hold, what it has cost, what it found; or a line for each run.

A document is made first, from the folder alone, and then printed as tables or as JSON: both say the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from pipeline.engine.progress import duration, plain
from pipeline.errors import UserError
from pipeline.evaluate.metrics import Comparison, Summary, comparisons, summarise
from pipeline.filter.funnel import Yield
from pipeline.generate import usage
from pipeline.inspect import score_table
from pipeline.inspect.costs import Cost, costs
from pipeline.inspect.run import ROWS, Run, open_run
from pipeline.inspect.show import at_least, console, money
from pipeline.rows import Row


class RunLine(Row):
    run: str
    complete: tuple[str, ...]  # stages
    working_on: tuple[str, ...]  # stages
    kept: int | None  # traces; None before they were filtered
    unreadable: str | None = None  # why nothing else is known


class Runs(Row):
    """What `retort status --json` prints."""

    runs: tuple[RunLine, ...]


class StageLine(Row):
    stage: str
    state: str  # running, complete, unfinished, not started
    rows: int
    failed: int
    shards: int
    sealed: int  # of the shards
    seconds: float | None  # over all tries that have ended; None where none has


class Asked(Row):
    """What a judge, or a model in evaluate, was asked, over all tries."""

    stage: str
    requests: int
    completion_tokens: int
    uncounted: int  # answers without counts: tokens and spend are then the least
    spend: float | None  # None where the recipe gives no price, or nothing was counted


class Drawing(Row):
    """What generate's tries took, over all of them."""

    requests: int
    retries: dict[str, int]  # why -> how many
    seconds: float


class Status(Row):
    """What `retort status RUN --json` prints."""

    run: str
    folder: str
    stages: tuple[StageLine, ...]
    working: tuple[str, ...]  # the last line of progress of each stage that draws right now
    filtered: Yield | None  # None before traces were filtered
    costs: tuple[Cost, ...]
    asked: tuple[Asked, ...]
    drawing: Drawing | None
    scores: tuple[Summary, ...]  # empty before evaluate is complete
    comparisons: tuple[Comparison, ...]


def runs_of(folder: Path) -> Runs:
    """A line for each run of a folder; one that cannot be read is said to be so."""
    folders = sorted(path.parent for path in folder.glob("*/recipe.json"))
    if not folders:
        raise UserError(f"{folder}: no runs there; `retort run RECIPE` makes one")
    return Runs(runs=tuple(_line(path) for path in folders))


def status_of(run: Run) -> Status:
    seconds = run.seconds()
    scores = list(run.scores) if run.output("evaluate").complete else []
    report = run.report("filter")
    return Status(
        run=run.path.name,
        folder=str(run.path),
        stages=tuple(
            StageLine(stage=stage, state=run.state(stage), **vars(counts), seconds=seconds.get(stage))
            for stage, counts in run.counts().items()
        ),
        working=tuple(_working(run)),
        filtered=Yield(**{name: report[name] for name in Yield.model_fields}) if report else None,
        costs=tuple(costs(run)),
        asked=tuple(_asked(run)),
        drawing=_drawing(run),
        scores=tuple(summarise(scores)),
        comparisons=tuple(comparisons(scores)),
    )


def print_document(document: Runs | Status) -> None:
    if isinstance(document, Runs):
        _print_runs(document)
    else:
        _print_status(document)
        if document.scores:
            score_table.print_scores(open_run(document.folder), document.scores, document.comparisons)


def _print_runs(document: Runs) -> None:
    table = Table("run", "complete", "working on", "rows kept", box=None)
    for r in document.runs:
        said = r.unreadable or ", ".join(r.working_on) or "-"
        kept = "-" if r.kept is None else f"{r.kept:,}"
        table.add_row(plain(r.run), f"{len(r.complete)}/{len(ROWS)}", plain(said), kept)
    console().print(table, markup=False)


def _print_status(s: Status) -> None:
    table = Table("stage", "state", "rows", "failed", "shards sealed", "seconds", box=None)
    for line in s.stages:
        shards = f"{line.sealed}/{line.shards}" if line.shards else "-"
        time = "-" if line.seconds is None else f"{line.seconds:.0f}"
        table.add_row(line.stage, line.state, f"{line.rows:,}", f"{line.failed:,}", shards, time)
    screen = console()
    screen.print(table)
    for text in (*s.working, *_yield(s)):
        screen.print(plain(text), markup=False, highlight=False)
    if s.costs:
        _print_costs(s)


def _print_costs(s: Status) -> None:
    """What generate has cost, by teacher and source, and what was tried beside it."""
    headers = (
        "teacher",
        "source",
        "traces",
        "prompt tokens",
        "completion tokens",
        "spent",
        "kept",
        "a kept one",
    )
    table = Table(*headers, box=None)
    for c in s.costs:
        used = ("-" if n is None else f"{n:,}" for n in (c.prompt_tokens, c.completion_tokens))
        kept = "-" if c.kept is None else str(c.kept)
        known = [at_least(amount, c.uncounted) for amount in (*used, money(c.spend), money(c.per_kept))]
        table.add_row(plain(c.teacher), plain(c.source), f"{c.traces:,}", *known[:3], kept, known[3])
    screen = console()
    screen.print()
    screen.print(table)
    for j in s.asked:
        tokens = at_least(f"{j.completion_tokens:,}", j.uncounted)
        spent = at_least(money(j.spend), j.uncounted)
        said = f"{j.requests} requests, {tokens} completion tokens, {spent} spent"
        screen.print(f"{j.stage}: {said}", markup=False, highlight=False)
    if s.drawing:
        why = ", ".join(f"{n} {plain(reason)}" for reason, n in s.drawing.retries.items())
        time = duration(s.drawing.seconds)
        screen.print(
            f"{s.drawing.requests} requests in {time}; retries: {why or 'none'}",
            markup=False,
            highlight=False,
        )


def _line(folder: Path) -> RunLine:
    try:
        run = open_run(folder)
        states = {stage: run.output(stage) for stage in ROWS}
        return RunLine(
            run=folder.name,
            complete=tuple(stage for stage, output in states.items() if output.complete),
            working_on=tuple(stage for stage, output in states.items() if output.busy),
            kept=run.report("filter").get("kept"),
        )
    except UserError as e:
        return RunLine(run=folder.name, complete=(), working_on=(), kept=None, unreadable=str(e))


def _working(run: Run) -> Iterator[str]:
    for stage in ("generate", *run.answers()):
        tries = usage.read(run.output(stage).folder) if run.output(stage).busy else ()
        if tries:
            yield tries[-1].line


def _asked(run: Run) -> Iterator[Asked]:
    for stage in run.answers():
        accounts = [a for t in usage.read(run.output(stage).folder) for a in t.accounts]
        if accounts:
            spends = [a.spend for a in accounts if a.spend is not None]
            yield Asked(
                stage=stage,
                requests=sum(a.requests for a in accounts),
                completion_tokens=sum(a.completion_tokens for a in accounts),
                uncounted=sum(a.uncounted for a in accounts),
                spend=sum(spends) if spends else None,
            )


def _drawing(run: Run) -> Drawing | None:
    tries = usage.read(run.output("generate").folder)
    requests, retries = usage.asked(tries)
    seconds = sum(t.seconds for t in tries)
    return Drawing(requests=requests, retries=dict(retries.most_common()), seconds=seconds) if tries else None


def _yield(s: Status) -> Iterator[str]:
    if s.filtered:
        yield f"\n{s.filtered.traces} traces: {s.filtered.kept} kept; `retort why` shows examples"
        yield from (f"  {n:>6} rejected, {why}" for why, n in s.filtered.rejected.items())
        yield from (f"  {n:>6} cannot tell, {why}" for why, n in s.filtered.unknown.items())
