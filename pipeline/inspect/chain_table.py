"""The rounds or the cascade of a recipe, read from the folders of its runs: a line for each step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from pipeline.config import Recipe
from pipeline.engine.progress import plain
from pipeline.evaluate import bootstrap
from pipeline.evaluate.bootstrap import Estimate
from pipeline.evaluate.metrics import by_set, paired
from pipeline.inspect.format import count, interval
from pipeline.inspect.run import Run, open_run
from pipeline.inspect.show import print_grid, print_lines
from pipeline.model_rows import Score
from pipeline.rows import Row

COLUMNS = (
    "run",
    "set",
    "teacher",
    "kept",
    "examples",
    "pass@1 [95 %]",
    "points gained [95 %]",
    "problems",
)
Scores = dict[str, dict[str, list[Score]]]  # set -> model role -> scores


class StepScore(Row):
    """The student of a step on one set."""

    set: str
    problems: int
    pass_at_1: Estimate
    difference: Estimate | None  # to the student before, of the first step to the base; paired by problem


class ChainStep(Row):
    """One run of a chain. Numbers are None before the stage that makes them is complete."""

    run: str
    complete: int  # stages; 0 before the run begins
    stages: int
    teachers: tuple[str, ...]
    kept: int | None  # traces
    examples: int | None  # to train on
    scores: tuple[StepScore, ...]


def steps_of(recipe: Recipe, runs: Path) -> list[ChainStep]:
    """Every step of the recipe's chain, as the folders have it now."""
    steps: list[ChainStep] = []
    before: Scores = {}
    for i, name in enumerate(recipe.chain):
        if not (runs / name / "recipe.json").exists():
            steps.append(
                ChainStep(run=name, complete=0, stages=0, teachers=(), kept=None, examples=None, scores=())
            )
            before = {}
            continue
        run = open_run(runs / name)
        scores = by_set(run.scores) if run.output("evaluate").complete else {}
        steps.append(_step(run, tuple(_scores(scores, before if i else scores, "student" if i else "base"))))
        before = scores
    return steps


def stopped_after(recipe: Recipe, steps: Sequence[ChainStep]) -> ChainStep | None:
    """The round without a gain that is shown, after which no further one starts; None if there is none."""
    if recipe.rounds and recipe.rounds.stop_without_gain:
        for step in steps:
            first = step.scores[0].difference if step.scores else None
            if first and first.low <= 0:
                return step
    return None


def print_chain(recipe: Recipe, steps: Sequence[ChainStep]) -> None:
    table = Table(*COLUMNS, box=None)
    for row in rows(steps):
        table.add_row(*row)
    print_grid(table)
    print_lines(*lines(recipe, steps))


def rows(steps: Sequence[ChainStep]) -> list[tuple[str, ...]]:
    """The cells of the table: a row for each step and set, or one that says how far the step is."""
    return [_cells(step, score) for step in steps for score in step.scores or (None,)]


def _cells(step: ChainStep, score: StepScore | None) -> tuple[str, ...]:
    state = f"{step.complete} of {step.stages} stages" if step.stages else "not begun"
    return (
        plain(step.run),
        score.set if score else "-",
        plain(", ".join(step.teachers)) or "-",
        count(step.kept),
        count(step.examples),
        interval(score.pass_at_1) if score else state,
        interval(score.difference, "") if score and score.difference else "-",
        count(score.problems if score else None),
    )


def lines(recipe: Recipe, steps: Sequence[ChainStep]) -> Iterator[str]:
    """Where the rounds stopped, in a sentence."""
    if stopped := stopped_after(recipe, steps):
        yield (
            f"{stopped.run} shows no gain, so no further round starts; "
            "rounds.stop_without_gain=false goes on nevertheless"
        )


def _step(run: Run, scores: tuple[StepScore, ...]) -> ChainStep:
    return ChainStep(
        run=run.name,
        complete=sum(run.output(stage).complete for stage in run.stages),
        stages=len(run.stages),
        teachers=tuple(teacher.display_name for teacher in run.recipe.teacher),
        kept=run.report("filter").get("kept"),
        examples=run.report("select").get("train"),
        scores=scores,
    )


def _scores(scores: Scores, before: Scores, role: str) -> Iterator[StepScore]:
    for name, roles in scores.items():
        own = roles.get("student", [])
        if own:
            ours, theirs = paired(own, before.get(name, {}).get(role, []))
            yield StepScore(
                set=name,
                problems=len(own),
                pass_at_1=bootstrap.mean([s.correct / s.samples for s in own]),
                difference=bootstrap.mean(ours - theirs, least=-1) if len(ours) else None,
            )
