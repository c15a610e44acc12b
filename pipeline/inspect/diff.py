"""`retort diff`: the settings in which two runs differ, and the difference in yield, cost and scores.

Settings come from the manifest of each stage: those that change its output. The other settings of the recipes
follow. Scores are compared problem by problem.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.table import Table

from pipeline import generations
from pipeline.engine.layout import ROWS
from pipeline.engine.manifest import flat, shown
from pipeline.engine.progress import plain
from pipeline.evaluate import bootstrap
from pipeline.evaluate.bootstrap import Estimate
from pipeline.evaluate.metrics import by_set, paired
from pipeline.inference import engines
from pipeline.inspect import diversity
from pipeline.inspect.costs import costs, spend_per_kept, total_spend
from pipeline.inspect.diversity import Change, RunDiversity
from pipeline.inspect.format import at_least, count, money, percent
from pipeline.inspect.run import Run
from pipeline.inspect.show import print_grid, print_lines
from pipeline.rows import Row


class Setting(Row):
    where: str  # a stage; "recipe" for settings that do not change the output
    setting: str
    a: Any  # None when the run has no such setting
    b: Any


class Side(Row):
    """Yield and cost of one of the runs."""

    run: str
    complete: tuple[str, ...]  # stages
    traces: int
    kept: int | None  # None before filtering, as are the next two
    rejected: dict[str, int] | None  # "rule: reason" -> traces
    undecided: dict[str, int] | None
    prompt_tokens: int | None  # None when none were counted
    completion_tokens: int | None
    uncounted: int  # traces without token counts: tokens and spend are then lower bounds
    spend: float | None  # None when the recipe gives no price
    per_kept: float | None  # the spend for each kept trace of the teachers with a price
    seconds: dict[str, float]  # stage -> over all attempts
    diversity: RunDiversity | None  # of the traces; None without any
    generation: str | None  # of the student; None: unknown, or not trained


class ScoreDiff(Row):
    """One model of both runs on one set."""

    set: str
    model_role: str
    problems: int  # in both runs
    a: float  # pass@1 over these problems
    b: float
    difference: Estimate  # b - a: mean, low, high
    engines: tuple[str, str] | None = None  # of a and b in words, where they are different ones


class Diff(Row):
    """The document that `retort diff RUN_A RUN_B --json` prints."""

    a: Side
    b: Side
    settings: tuple[Setting, ...]
    same: tuple[str, ...]  # stages that hold the same rows in both runs
    scores: tuple[ScoreDiff, ...]
    diversity: tuple[Change, ...]  # of the traces of problems in both


def diff_of(a: Run, b: Run) -> Diff:
    return Diff(
        a=_side(a),
        b=_side(b),
        settings=tuple(_settings(a, b)),
        same=tuple(
            stage for stage in ROWS if _digests(a, stage) and _digests(a, stage) == _digests(b, stage)
        ),
        scores=tuple(score_diffs(a, b)),
        diversity=tuple(diversity.changes(a, b)),
    )


def print_diff(diff: Diff) -> None:
    for where, settings in groupby(diff.settings, key=lambda s: s.where):
        print_lines(f"{where}:", *(f"  {_in_words(s)}" for s in settings))
    if not diff.settings:
        print_lines("no setting differs")
    if set(diff.same) >= {*diff.a.complete, *diff.b.complete} and diff.same:
        print_lines("the runs are identical: all of their rows are the same")
        return
    if diff.same:
        print_lines(f"the same rows: {', '.join(diff.same)}")
    print_lines("")
    print_grid(_yields(diff))
    less = (diversity.sentence(change) for change in diff.diversity if change.less_diverse)
    print_lines(*(f"warning: {plain(diff.b.run)} is less diverse: {plain(line)}" for line in less))
    print_lines(*map(_sentence, diff.scores))
    if not diff.scores:
        print_lines("no problem was answered by the same model of both")


def _in_words(s: Setting) -> str:
    """A difference as users know it; a rule is recorded with the version of its filter."""
    rule = re.fullmatch(r"(.+\.)?rules\.(\w+)\.version", s.setting)
    if rule and None in (s.a, s.b):
        return f"the rule {rule[2]}: {'off -> on' if s.a is None else 'on -> off'}"
    a, b = ("not set" if value is None else shown(value) for value in (s.a, s.b))
    return f"{s.setting}: {a} -> {b}"


def _settings(a: Run, b: Run) -> Iterator[Setting]:
    found: list[tuple[str, str, Any, Any]] = []
    named: set[tuple[str, str]] = set()
    for stage in ROWS:
        for name, old, new in _differing(_stage_settings(a, stage), _stage_settings(b, stage)):
            if name.startswith("rules.") and ("filter", name) in named:
                continue  # evaluate has the same rules
            found.append((stage, name.rpartition(".")[2], old, new))
            named.add((stage, name))
            yield Setting(where=stage, setting=name, a=old, b=new)
    for name, old, new in _differing(_recipe(a), _recipe(b)):
        table, last = name.partition(".")[0], name.rpartition(".")[2]
        if (table, f"{name.removeprefix(f'{table}.')}.version") in named:
            continue  # a rule
        # A setting that a stage has shown is left out; of a stage's own table, if that stage has.
        stages = (table,) if table in ROWS else tuple(ROWS)
        if name != "run" and not any((stage, last, old, new) in found for stage in stages):
            yield Setting(where="recipe", setting=name, a=old, b=new)


def _differing(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    keys = dict.fromkeys((*a, *b)) if a and b else ()
    return [(key, a.get(key), b.get(key)) for key in keys if a.get(key) != b.get(key)]


def _stage_settings(run: Run, stage: str) -> dict[str, Any]:
    """The settings of a stage's manifest by dotted name; {} before the stage has begun."""
    manifest = run.output(stage).manifest()
    return flat({**manifest.settings, "version": manifest.version}) if manifest else {}


def _recipe(run: Run) -> dict[str, Any]:
    return flat(json.loads(run.recipe.model_dump_json()))


def _digests(run: Run, stage: str) -> dict[str, str] | None:
    """The digest of every shard; None before the stage is complete."""
    manifest = run.output(stage).manifest()
    return manifest.digests if manifest else None


def _side(run: Run) -> Side:
    report, spent = run.report("filter"), costs(run)
    return Side(
        run=run.name,
        complete=tuple(stage for stage in ROWS if run.output(stage).complete),
        traces=sum(c.traces for c in spent),
        kept=report.get("kept"),
        rejected=report.get("rejected"),
        undecided=report.get("undecided"),
        prompt_tokens=_sum([c.prompt_tokens for c in spent]),
        completion_tokens=_sum([c.completion_tokens for c in spent]),
        uncounted=sum(c.uncounted for c in spent),
        spend=total_spend(spent),
        per_kept=spend_per_kept(spent),
        seconds=dict(run.seconds()),
        diversity=diversity.diversity_of(run),
        generation=run.report("train").get("generation"),
    )


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known or not counts else None


def score_diffs(a: Run, b: Run) -> Iterator[ScoreDiff]:
    other = by_set(b.scores)
    for name, models in by_set(a.scores).items():
        for role, scores in models.items():
            new, old = paired(other.get(name, {}).get(role, []), scores)
            if len(new):
                yield ScoreDiff(
                    set=name,
                    model_role=role,
                    problems=len(new),
                    a=float(old.mean()),
                    b=float(new.mean()),
                    difference=bootstrap.mean(new - old, least=-1),
                    engines=_engines(a, b, f"{name}/{role}"),
                )


def _engines(a: Run, b: Run, model: str) -> tuple[str, str] | None:
    """The engines of a model in both runs, where they differ in any way that is recorded."""
    made_by = [run.report("evaluate").get("engines", {}).get(model, []) for run in (a, b)]
    if made_by[0] == made_by[1]:
        return None
    full = engines.words_of(made_by[0]) == engines.words_of(made_by[1])
    return engines.words_of(made_by[0], full), engines.words_of(made_by[1], full)


def _yields(diff: Diff) -> Table:
    a, b = diff.a, diff.b
    table = Table("", plain(a.run), plain(b.run), box=None)
    table.add_row("traces", count(a.traces), count(b.traces))
    table.add_row("kept", _share(a.kept, a), _share(b.kept, b))
    for outcome in ("rejected", "undecided"):
        found = [getattr(side, outcome) for side in (a, b)]  # None: not filtered yet
        for reason in dict.fromkeys(reason for reasons in found for reason in reasons or {}):
            numbers = (None if reasons is None else reasons.get(reason, 0) for reasons in found)
            counts = [_share(n, side) for n, side in zip(numbers, (a, b), strict=True)]
            table.add_row(f"{outcome}, {plain(reason)}", *counts)
    for name in ("kept", "all"):
        for field, label in diversity.LABELS.items():
            table.add_row(f"{label}, {name} traces", *(_measure(s, name, field) for s in (a, b)))
    table.add_row("student's generation", *(generations.words(s.generation) for s in (a, b)))
    table.add_row("completion tokens", *(at_least(count(s.completion_tokens), s.uncounted) for s in (a, b)))
    table.add_row("spent", *(at_least(money(s.spend), s.uncounted) for s in (a, b)))
    table.add_row("spent per kept trace", *(at_least(money(s.per_kept), s.uncounted) for s in (a, b)))
    for stage in ROWS:
        if not (stage in a.seconds or stage in b.seconds):
            continue  # neither run has it
        times = (s.seconds.get(stage) for s in (a, b))
        table.add_row(f"seconds of {stage}", *("-" if t is None else f"{t:.0f}" for t in times))
    return table


def _measure(side: Side, name: str, field: str) -> str:
    return diversity.text(getattr(side.diversity, name, None), field)


def _share(traces: int | None, side: Side) -> str:
    return "-" if traces is None or not side.traces else f"{traces:,} ({percent(traces / side.traces)})"


def _sentence(s: ScoreDiff) -> str:
    mean, low, high = (100 * x for x in s.difference)
    made_by = f"; made by different engines: {' -> '.join(s.engines)}" if s.engines else ""
    return (
        f"{s.set}, {s.model_role}: {percent(s.a)} -> {percent(s.b)}, {mean:+.1f} points, "
        f"95 % from {low:+.1f} to {high:+.1f}, over {s.problems} problems{made_by}"
    )
