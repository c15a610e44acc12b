"""What the shell prints of a run: status, costs, rows. Model text drives no terminal."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline import ledger
from pipeline.costs import costs
from pipeline.errors import UserError
from pipeline.progress import duration, plain
from pipeline.rows import Row, Trace
from pipeline.run import ROWS, WITHIN, Rows, Run, open_run


def print_runs(runs: Path) -> None:
    """A line for each run of a folder: how many of its stages are complete."""
    folders = sorted(path.parent for path in runs.glob("*/recipe.json"))
    if not folders:
        raise UserError(f"{runs}: no runs there; `retort run RECIPE` makes one")
    table = Table("run", "complete", "working on", "rows kept", box=None)
    for folder in folders:
        run = open_run(folder)
        complete = [stage for stage in ROWS if run.output(stage).complete]
        busy = [stage for stage in ROWS if run.output(stage).busy]
        kept = run.report("filter").get("kept", "-")
        table.add_row(folder.name, f"{len(complete)}/{len(ROWS)}", ", ".join(busy) or "-", str(kept))
    console().print(table)


def print_status(run: Run) -> None:
    """Each stage's state and counts, the funnel, what it has cost."""
    seconds: dict[str, float] = {}
    for event in run.events():
        seconds[event["stage"]] = seconds.get(event["stage"], 0) + event["seconds"]
    table = Table("stage", "state", "rows", "failed", "shards sealed", "seconds", box=None)
    for stage, counts in run.counts().items():
        shards = f"{counts.sealed}/{counts.shards}" if counts.shards else "-"
        time = f"{seconds[stage]:.0f}" if stage in seconds else "-"
        table.add_row(stage, _state(run, stage), str(counts.rows), str(counts.failed), shards, time)
    screen = console()
    screen.print(table)
    for line in (*_working(run), *_funnel(run)):
        screen.print(line, markup=False, highlight=False)
    print_costs(run)


def print_costs(run: Run) -> None:
    """What generate has cost, by teacher and source, and what was tried beside it."""
    rows = costs(run)
    if not rows:
        return
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
    for c in rows:
        numbers = (c.traces, c.prompt_tokens, c.completion_tokens)
        money = (_money(c.spend), "-" if c.kept is None else str(c.kept), _money(c.per_kept))
        table.add_row(plain(c.teacher), plain(c.source), *(f"{n:,}" for n in numbers), *money)
    screen = console()
    screen.print()
    screen.print(table)
    for line in _judging(run):
        screen.print(line, markup=False, highlight=False)
    tries = ledger.read(run.output("generate").folder)
    retries = sum((Counter(a.retries) for t in tries for a in t.accounts), Counter[str]())
    requests = sum(a.requests for t in tries for a in t.accounts)
    if tries:
        why = ", ".join(f"{n} {plain(reason)}" for reason, n in retries.most_common())
        time = duration(sum(t.seconds for t in tries))
        screen.print(f"{requests} requests in {time}; retries: {why or 'none'}", highlight=False)


def _judging(run: Run) -> Iterator[str]:
    """What judge models have cost, a line for each folder of opinions."""
    for stage in run.answers():
        accounts = [a for t in ledger.read(run.output(stage).folder) for a in t.accounts]
        if stage.endswith("/judge") and accounts:
            spends = [a.spend for a in accounts if a.spend is not None]
            asked, tokens = (sum(a.requests for a in accounts), sum(a.completion_tokens for a in accounts))
            spent = _money(sum(spends) if spends else None)
            yield f"{stage}: {asked} requests, {tokens:,} completion tokens, {spent} spent"


def _money(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:.2f}" if amount >= 1 else f"{amount:.2g}"


def print_rows(run: Run, stage: str, outcome: str | None, count: int) -> None:
    """The first rows of a stage, whole, field by field."""
    rows = rows_of(run, stage)
    if not rows.paths:
        raise UserError(f"{run.path}: {stage} has no sealed shard yet; `retort status` shows how far it is")
    if outcome and rows.row is not Trace:
        raise UserError(f"{stage} holds no traces: --kept and --rejected are for filter")
    chosen = (row for row in rows if outcome is None or row.outcome == outcome)
    for row in islice(chosen, count):
        print("\n".join(_lines(row)) + "\n")


def rows_of(run: Run, stage: str) -> Rows[Any]:
    """The rows of a stage as people name it. Raises UserError where there is none of that name."""
    if stage.rpartition("/")[2] not in ROWS | WITHIN:
        raise UserError(f"no stage {stage!r}; stages: {', '.join(ROWS)}")
    return run.rows(stage)


def console() -> Console:
    """The terminal as it is; in a file or a pipe, lines as long as they need to be."""
    return Console() if sys.stdout.isatty() else Console(width=160)


def _state(run: Run, stage: str) -> str:
    output = run.output(stage)
    if output.busy:
        return "running"
    if output.complete:
        return "complete"
    return "not started" if output.manifest() is None else "unfinished"


def _working(run: Run) -> Iterator[str]:
    """The last line of progress of each stage that draws right now."""
    for stage in ("generate", *run.answers()):
        tries = ledger.read(run.output(stage).folder) if run.output(stage).busy else ()
        if tries:
            yield plain(tries[-1].line)


def _funnel(run: Run) -> Iterator[str]:
    report = run.report("filter")
    if report:
        yield f"\n{report['traces']} traces: {report['kept']} kept; `retort why` shows examples"
        yield from (f"  {n:>6} rejected, {plain(why)}" for why, n in report["rejected"].items())
        yield from (f"  {n:>6} cannot tell, {plain(why)}" for why, n in report["unknown"].items())


def _lines(row: Row) -> Iterator[str]:
    for name, value in row:
        if name == "verdicts":
            for v in value:
                yield f"  {v.outcome:8} {v.filter} {plain(v.reason)}" + (
                    f" ({plain(v.evidence)})" if v.evidence else ""
                )
        elif name == "messages":
            yield from (f"[{m.role}]\n{plain(m.content)}" for m in value)
        else:
            yield f"{name}: {plain(str(value))}"
