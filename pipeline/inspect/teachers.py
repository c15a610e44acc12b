"""`retort teachers`: what teachers and sources of problems are worth to a student that is not trained yet.

Yield and cost come from generate and filter. With a table [score], the student has read the kept traces, and
the teachers are ranked by their rank-surprisal ratio (arXiv 2601.14249, Spearman 0.86 with the trained
student's score over 5 students and 11 teachers). Intervals are over problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from rich.table import Table

from pipeline.engine.progress import plain
from pipeline.evaluate import bootstrap
from pipeline.evaluate.bootstrap import Estimate
from pipeline.inspect.costs import Cost, costs, spend_per_kept, total_spend
from pipeline.inspect.format import at_least, count, estimate, money, percent
from pipeline.inspect.run import Run
from pipeline.inspect.show import print_grid, print_lines
from pipeline.rows import Row

By = Literal["teacher", "source"]
NAME_CHARS = 20
_COLUMNS = ("teacher", "source", "problem_id", "tokens", "surprisal", "rank", "naturalness")
# The mean over a problem's traces, so that a problem with many of them does not count more. An unscored trace
# has no surprisal.
_BY_PROBLEM = """
select {by}, count(*), avg(tokens), avg(surprisal), avg(rank), avg(naturalness)
from rows where surprisal is not null group by {by}, problem_id order by {by}, problem_id
"""


class Suitability(Row):
    """How the student reads the kept traces; means over problems of the mean over their traces."""

    model: str  # that reads
    problems: int
    traces: int  # scored
    tokens: float  # of a trace, as the student counts them
    surprisal: Estimate  # nats per token
    ratio: Estimate | None  # mean rank / mean surprisal; lower is better
    naturalness: Estimate | None  # nats per token; higher is better; None without score.local


class Line(Row):
    """The traces of one teacher, or those for the problems of one source."""

    name: str
    traces: int
    kept: int | None  # None before filtering
    completion_tokens: int | None  # None when none were counted
    uncounted: int  # traces without token counts: tokens and spend are then lower bounds
    spend: float | None  # None when the recipe gives no price
    per_kept: float | None  # the spend for each kept trace of the teachers with a price
    suits: Suitability | None  # None before the stage score, or without a scored trace


class Teachers(Row):
    """The document that `retort teachers RUN --json` prints, the best first."""

    run: str
    teachers: tuple[Line, ...]
    sources: tuple[Line, ...]


def teachers_of(run: Run) -> Teachers:
    spent = costs(run)
    return Teachers(
        run=run.path.name,
        teachers=tuple(_lines(run, spent, "teacher")),
        sources=tuple(_lines(run, spent, "source")),
    )


def print_teachers(document: Teachers) -> None:
    """Prints tables that fit into 80 columns."""
    _print_lines("teacher", document.teachers)
    if len(document.sources) > 1:
        print_lines("")
        _print_lines("source", document.sources)
    scored = [line for line in document.teachers if line.suits]
    if scored and scored[0].suits:
        print_lines("", f"read by {scored[0].suits.model}")
        print_lines("nats per token, 95 % intervals over problems; a lower ratio of rank to surprisal")
        print_lines("suits the student better, and so does a higher naturalness")
    else:
        print_lines("", "no scores: a table [score] in the recipe and `retort score` let the student read")


def _print_lines(by: By, lines: Sequence[Line]) -> None:
    table = _table(by, "traces", "kept", "scored", "tokens", "spent", "spent/kept")
    for line in lines:
        kept = "-" if line.kept is None else f"{line.kept:,} ({percent(line.kept / max(1, line.traces))})"
        amounts = (count(line.completion_tokens), money(line.spend), money(line.per_kept))
        used = (at_least(amount, line.uncounted) for amount in amounts)
        scored = f"{line.suits.traces:,}" if line.suits else "-"
        table.add_row(_shown(line.name), f"{line.traces:,}", kept, scored, *used)
    print_grid(table)
    if any(line.suits for line in lines):
        _print_scores(by, lines)


def _print_scores(by: By, lines: Sequence[Line]) -> None:
    table = _table(by, "surprisal", "ratio", "naturalness")
    for line in lines:
        it = line.suits
        numbers = map(estimate, (it.surprisal, it.ratio, it.naturalness)) if it else ("-",) * 3
        table.add_row(_shown(line.name), *numbers)
    print_lines("")
    print_grid(table)


def _table(*columns: str) -> Table:
    return Table(*columns, box=None, pad_edge=False)


def _shown(name: str) -> str:
    """A name, or the end of a long one, as it tells models of one folder apart."""
    name = plain(name)
    return name if len(name) <= NAME_CHARS else f"...{name[3 - NAME_CHARS :]}"


def _lines(run: Run, spent: Sequence[Cost], by: By) -> list[Line]:
    suits = _suitability(run, by)
    names = dict.fromkeys(getattr(cost, by) for cost in spent)
    lines = [_line(name, [c for c in spent if getattr(c, by) == name], suits.get(name)) for name in names]
    return sorted(lines, key=_worth)


def _worth(line: Line) -> tuple[bool, float, str]:
    """Sorts by the ratio where it is known, then by the share that is kept."""
    if line.suits is not None and line.suits.ratio is not None:
        return False, line.suits.ratio.mean, line.name
    return True, -(line.kept or 0) / max(1, line.traces), line.name


def _line(name: str, spent: Sequence[Cost], suits: Suitability | None) -> Line:
    kept = [c.kept for c in spent if c.kept is not None]
    tokens = [c.completion_tokens for c in spent if c.completion_tokens is not None]
    return Line(
        name=name,
        traces=sum(c.traces for c in spent),
        kept=sum(kept) if kept else None,
        completion_tokens=sum(tokens) if tokens else None,
        uncounted=sum(c.uncounted for c in spent),
        spend=total_spend(spent),
        per_kept=spend_per_kept(spent),
        suits=suits,
    )


def _suitability(run: Run, by: By) -> dict[str, Suitability]:
    manifest = run.output("score").manifest()
    if manifest is None:
        return {}
    rows = run.trace_scores.query(_COLUMNS, _BY_PROBLEM.format(by=by))
    names = dict.fromkeys(row[0] for row in rows)
    model = str(manifest.settings["model"])
    return {name: _suits(model, [row[1:] for row in rows if row[0] == name]) for name in names}


def _suits(model: str, problems: Sequence[tuple[float | None, ...]]) -> Suitability:
    """`problems`: scored traces, mean tokens, surprisal, rank, naturalness."""
    traces, tokens, surprisal, rank = np.array([row[:4] for row in problems], float).T
    local = np.array([row[4] for row in problems if row[4] is not None], float)
    return Suitability(
        model=model,
        problems=len(problems),
        traces=int(traces.sum()),
        tokens=float(tokens.mean()),
        surprisal=bootstrap.mean(surprisal, most=np.inf),
        ratio=bootstrap.ratio(rank, surprisal),
        naturalness=bootstrap.mean(local, least=-np.inf, most=0) if len(local) else None,
    )
