"""`retort diff`: which settings of two runs differ, and what that did to yield, cost and scores.

Settings are those of each stage's manifest, which change what it writes; then those of the recipes that say
only how the work is done. Scores are compared problem by problem.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.table import Table

from pipeline.engine.progress import plain
from pipeline.engine.store import flat, shown
from pipeline.evaluate import bootstrap
from pipeline.evaluate.bootstrap import Estimate
from pipeline.evaluate.metrics import by_set, paired
from pipeline.inspect.costs import costs
from pipeline.inspect.run import ROWS, Run
from pipeline.inspect.show import at_least, console, money
from pipeline.rows import Row, Score


class Setting(Row):
    where: str  # a stage; or "recipe", for what changes nothing that is written
    setting: str
    a: Any  # None where the run has no such setting
    b: Any


class Side(Row):
    """What one of the runs gave and took."""

    run: str
    complete: tuple[str, ...]  # stages
    traces: int
    kept: int | None  # None before they were filtered, as with the next two
    rejected: dict[str, int] | None  # "rule: reason" -> traces
    unknown: dict[str, int] | None
    prompt_tokens: int | None  # None where none were counted
    completion_tokens: int | None
    uncounted: int  # traces without counts: tokens and spend are then the least
    spend: float | None  # None where the recipe gives no price
    seconds: dict[str, float]  # stage -> over all tries


class ScoreDiff(Row):
    """One model of both runs on one set."""

    set: str
    model_role: str
    problems: int  # of both
    a: float  # pass@1 over these
    b: float
    difference: Estimate  # b less a: mean, low, high


class Diff(Row):
    """What `retort diff RUN_A RUN_B --json` prints."""

    a: Side
    b: Side
    settings: tuple[Setting, ...]
    same: tuple[str, ...]  # stages that hold the same rows in both
    scores: tuple[ScoreDiff, ...]


def diff_of(a: Run, b: Run) -> Diff:
    return Diff(
        a=_side(a),
        b=_side(b),
        settings=tuple(_settings(a, b)),
        same=tuple(
            stage for stage in ROWS if _content(a, stage) and _content(a, stage) == _content(b, stage)
        ),
        scores=tuple(_scores(list(a.scores), list(b.scores))),
    )


def print_diff(diff: Diff) -> None:
    screen = console()
    for where, settings in groupby(diff.settings, key=lambda s: s.where):
        screen.print(f"{where}:", markup=False, highlight=False)
        for s in settings:
            line = f"  {s.setting}: {shown(s.a)} -> {shown(s.b)}"
            screen.print(plain(line), markup=False, highlight=False)
    if not diff.settings:
        screen.print("no setting differs")
    if diff.same:
        screen.print(f"the same rows: {', '.join(diff.same)}", markup=False, highlight=False)
    screen.print()
    screen.print(_yields(diff))
    for score in diff.scores:
        screen.print(_sentence(score), markup=False, highlight=False)
    if not diff.scores:
        screen.print("no problem was answered by the same model of both")


def _settings(a: Run, b: Run) -> Iterator[Setting]:
    said: list[tuple[str, str, Any, Any]] = []
    for stage in ROWS:
        for name, old, new in _differing(_made_under(a, stage), _made_under(b, stage)):
            said.append((stage, name.rpartition(".")[2], old, new))
            yield Setting(where=stage, setting=name, a=old, b=new)
    for name, old, new in _differing(_recipe(a), _recipe(b)):
        table, last = name.partition(".")[0], name.rpartition(".")[2]
        # The recipe's own words for what a stage said; of [evaluate] only where it was evaluate that said it.
        stages = (table,) if table in ROWS else tuple(ROWS)
        if name != "run" and not any((stage, last, old, new) in said for stage in stages):
            yield Setting(where="recipe", setting=name, a=old, b=new)


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    keys = dict.fromkeys((*a, *b)) if a and b else ()
    return [(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)]


def _made_under(run: Run, stage: str) -> dict[str, Any]:
    """{} where the stage was not begun."""
    manifest = run.output(stage).manifest()
    return flat({**manifest.settings, "version": manifest.version}) if manifest else {}


def _recipe(run: Run) -> dict[str, Any]:
    return flat(json.loads(run.recipe.model_dump_json()))


def _content(run: Run, stage: str) -> dict[str, str] | None:
    """The digest of every shard; None where the stage is not complete."""
    manifest = run.output(stage).manifest()
    return manifest.digests if manifest else None


def _side(run: Run) -> Side:
    report, spent = run.report("filter"), costs(run)
    spends = [c.spend for c in spent if c.spend is not None]
    return Side(
        run=run.path.name,
        complete=tuple(stage for stage in ROWS if run.output(stage).complete),
        traces=sum(c.traces for c in spent),
        kept=report.get("kept"),
        rejected=report.get("rejected"),
        unknown=report.get("undecided"),
        prompt_tokens=_sum([c.prompt_tokens for c in spent]),
        completion_tokens=_sum([c.completion_tokens for c in spent]),
        uncounted=sum(c.uncounted for c in spent),
        spend=sum(spends) if spends else None,
        seconds=dict(run.seconds()),
    )


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known or not counts else None


def _scores(a: list[Score], b: list[Score]) -> Iterator[ScoreDiff]:
    other = by_set(b)
    for name, subjects in by_set(a).items():
        for subject, scores in subjects.items():
            new, old = paired(other.get(name, {}).get(subject, []), scores)
            if len(new):
                yield ScoreDiff(
                    set=name,
                    model_role=subject,
                    problems=len(new),
                    a=float(old.mean()),
                    b=float(new.mean()),
                    difference=bootstrap.mean(new - old, least=-1),
                )


def _yields(diff: Diff) -> Table:
    table = Table("", plain(diff.a.run), plain(diff.b.run), box=None)
    sides = (diff.a, diff.b)
    table.add_row("traces", *(f"{s.traces:,}" for s in sides))
    table.add_row("kept", *(_share(s.kept, s) for s in sides))
    for what in ("rejected", "undecided"):
        found = [getattr(s, what) or {} for s in sides]
        for reason in dict.fromkeys((*found[0], *found[1])):
            counts = (_share(f.get(reason, 0), s) for f, s in zip(found, sides, strict=True))
            table.add_row(f"{what.replace('unknown', 'cannot tell')}, {plain(reason)}", *counts)
    tokens = ("-" if s.completion_tokens is None else f"{s.completion_tokens:,}" for s in sides)
    spends = (money(s.spend) for s in sides)
    each = (money(s.spend / s.kept if s.spend and s.kept else None) for s in sides)
    for what, amounts in (("completion tokens", tokens), ("spent", spends), ("spent a kept trace", each)):
        table.add_row(what, *(at_least(a, s.uncounted) for a, s in zip(amounts, sides, strict=True)))
    for stage in ROWS:
        table.add_row(f"seconds of {stage}", *(f"{s.seconds.get(stage, 0):.0f}" for s in sides))
    return table


def _share(count: int | None, side: Side) -> str:
    return "-" if count is None or not side.traces else f"{count:,} ({count / side.traces:.1%})"


def _sentence(s: ScoreDiff) -> str:
    mean, low, high = (100 * x for x in s.difference)
    return (
        f"{s.set}, {s.model_role}: {100 * s.a:.1f} % -> {100 * s.b:.1f} %, {mean:+.1f} points, "
        f"95 % from {low:+.1f} to {high:+.1f}, over {s.problems} problems"
    )
