"""`retort ablate`: trains with each rule on and off, on equally many examples of the same paid traces.

Each training is a run of its own, RUN-with-all-seedN or RUN-without-RULE-seedN, which takes over the traces
of RUN. A rule that is off is still applied; its verdicts do not decide (filter.ignored), so models are graded
as ever. All trainings have as many examples as the smallest could have, chosen at random.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from pipeline.config import Recipe
from pipeline.engine.execute import DONE
from pipeline.engine.options import NO_OPTIONS
from pipeline.engine.progress import say
from pipeline.engine.stage import Job
from pipeline.errors import UserError, nearest
from pipeline.evaluate import bootstrap
from pipeline.evaluate.bootstrap import Estimate, Floats
from pipeline.evaluate.metrics import by_set
from pipeline.inference import engines
from pipeline.inspect.format import interval, percent
from pipeline.inspect.run import Run, open_run
from pipeline.inspect.show import print_grid, print_lines
from pipeline.model_rows import Score
from pipeline.rows import Row
from pipeline.run_stages import exit_code
from pipeline.select.choices import training_ids
from pipeline.stages import stages_of
from pipeline.train.objectives import OBJECTIVES

ALL = "with-all"


class Effect(Row):
    """What a rule does for the student on one set. Shares are pass@1, over all seeds."""

    set: str
    rule: str
    problems: int
    on: float
    off: float
    difference: Estimate  # on - off, paired by problem: mean, low, high
    by_seed: tuple[float, ...]  # the difference of each seed
    examples_on: int  # kept for training, before they were cut to equally many
    examples_off: int


class Ablation(Row):
    """The document that `retort ablate --json` prints."""

    run: str
    examples: int  # of each training
    seeds: int
    effects: tuple[Effect, ...]
    engines: tuple[str, ...]  # that made the students' answers


def ablate(recipe: Recipe, rules: Sequence[str], seeds: int, runs: Path) -> tuple[int, Ablation | None]:
    """Runs what is missing of all trainings. Returns an exit code, and the result if it is 0.

    Raises UserError for a rule that is not on, and whatever a stage raises.
    """
    check(recipe, rules)
    if (code := _execute(recipe, ("ingest", "generate"), runs)) != DONE:
        return code, None
    arms = {arm: arm_recipe(recipe, arm, 0) for arm in (ALL, *rules)}
    sizes: dict[str, int] = {}
    for arm, first in arms.items():
        stages = stages_of(first)
        before = tuple(name for name in ("ingest", "generate", "filter", "score") if name in stages)
        if (code := _execute(first, before, runs)) != DONE:
            return code, None
        sizes[arm] = len(training_ids(Job(stages["select"], first, runs / first.run)))
    size = equal_size(sizes, recipe.select.max_examples)
    say(f"ablate: {size} examples for each training; {_listed(sizes)}")
    for seed, arm in product(range(seeds), arms):
        one = arm_recipe(recipe, arm, seed, size)
        say(f"ablate: {one.run}")
        if (code := _execute(one, tuple(stages_of(one)), runs)) != DONE:
            return code, None
    return DONE, result(recipe, rules, seeds, runs, sizes)


def check(recipe: Recipe, rules: Sequence[str]) -> None:
    recipe.check_single()
    if recipe.student is None:
        raise UserError("ablate trains students: add a table [student] to the recipe")
    if OBJECTIVES[recipe.train.objective].pairs:
        raise UserError(
            f"ablate trains on equally many examples, and objective = {recipe.train.objective!r} learns from "
            "those alone that have a rejected trace: set another train.objective"
        )
    on = [name for name in recipe.filter.names if name not in recipe.filter.ignored]
    for rule in rules:
        if rule not in on:
            raise UserError(f"--without {rule}: no such rule is on{nearest(rule, on)}")
        if [_arm_name(each) for each in rules].count(_arm_name(rule)) > 1:
            raise UserError(f"--without {rule} is given twice")


def arm_recipe(recipe: Recipe, arm: str, seed: int, examples: int | None = None) -> Recipe:
    """The recipe of one training. The first one takes its traces from the recipe's run, the others from it.

    So the answers of base and teacher, too, are paid once.
    """
    name, first = (f"{recipe.run}-{_arm_name(a)}-seed{n}" for a, n in ((arm, seed), (ALL, 0)))
    seed_of_training = (recipe.seed if recipe.train.seed is None else recipe.train.seed) + seed
    changes: dict[str, Any] = {
        "run": name,
        "reuse": recipe.run if name == first else first,
        "train": recipe.train.model_copy(update={"seed": seed_of_training}),
    }
    if examples is not None:
        changes["select"] = recipe.select.model_copy(update={"max_examples": examples})
    if arm != ALL:
        ignored = (*recipe.filter.ignored, arm)
        changes["filter"] = recipe.filter.model_copy(update={"ignored": ignored})
    return recipe.model_copy(update=changes)


def equal_size(sizes: Mapping[str, int], most: int | None = None) -> int:
    """The number of examples that every training can have, at most `most`.

    Raises UserError if one has none.
    """
    for arm, size in sizes.items():
        if not size:
            raise UserError(f"ablate: {_arm_name(arm)} keeps no example to train on")
    return min(sizes.values() if most is None else (most, *sizes.values()))


def result(
    recipe: Recipe, rules: Sequence[str], seeds: int, runs: Path, sizes: Mapping[str, int]
) -> Ablation:
    """Compares the students of complete runs."""
    opened = {
        (arm, seed): open_run(runs / arm_recipe(recipe, arm, seed).run)
        for arm, seed in product((ALL, *rules), range(seeds))
    }
    students = {key: _students(run) for key, run in opened.items()}
    effects = (effect for rule in rules for effect in _effects(students, rule, seeds, sizes))
    made_by = dict.fromkeys(engines.words_of(made) for run in opened.values() for made in _engines(run))
    return Ablation(
        run=recipe.run,
        examples=equal_size(sizes, recipe.select.max_examples),
        seeds=seeds,
        effects=tuple(effects),
        engines=tuple(made_by),
    )


def _effects(
    students: Mapping[tuple[str, int], Mapping[str, Sequence[Score]]],
    rule: str,
    seeds: int,
    sizes: Mapping[str, int],
) -> Iterator[Effect]:
    for name in students[ALL, 0]:
        on, off = paired_shares(
            [students[ALL, seed][name] for seed in range(seeds)],
            [students[rule, seed][name] for seed in range(seeds)],
        )
        yield Effect(
            set=name,
            rule=rule,
            problems=on.shape[1],
            on=float(on.mean()),
            off=float(off.mean()),
            difference=bootstrap.mean((on - off).mean(axis=0), least=-1),
            by_seed=tuple(float(each) for each in (on - off).mean(axis=1)),
            examples_on=sizes[ALL],
            examples_off=sizes[rule],
        )


def paired_shares(on: Sequence[Sequence[Score]], off: Sequence[Sequence[Score]]) -> tuple[Floats, Floats]:
    """pass@1 of each seed's students over the problems that all have: two arrays (seeds, problems)."""
    shares = [{s.problem_id: s.correct / s.samples for s in scores} for scores in (*on, *off)]
    common = [problem for problem in shares[0] if all(problem in share for share in shares)]
    arrays = np.array([[share[problem] for problem in common] for share in shares])
    return arrays[: len(on)], arrays[len(on) :]


def print_ablation(found: Ablation) -> None:
    """Prints the table, then what its figures rest on."""
    table = Table(
        "set", "rule", "on", "off", "on - off, points [95 %]", "by seed", "kept, on and off", box=None
    )
    for e in found.effects:
        by_seed = " ".join(f"{100 * each:+.1f}" for each in e.by_seed)
        kept = f"{e.examples_on:,} and {e.examples_off:,}"
        table.add_row(e.set, e.rule, percent(e.on), percent(e.off), interval(e.difference, ""), by_seed, kept)
    print_grid(table)
    several = f"each of {found.seeds} seeds" if found.seeds > 1 else "one seed"
    print_lines(
        f"pass@1 of the student; {found.examples:,} examples in each training, {several}; the intervals are "
        "over problems, paired, with the mean over seeds"
    )
    if len(found.engines) > 1:
        print_lines(f"made by different engines: {'; '.join(found.engines)}")


def _execute(recipe: Recipe, names: Sequence[str], runs: Path) -> int:
    return exit_code(recipe, names, runs, NO_OPTIONS, whole=False)


def _arm_name(arm: str) -> str:
    """Part of a run's name, so without the characters of a path in the name of a rule of one's own."""
    return arm if arm == ALL else f"without-{re.sub(r'[^A-Za-z0-9._-]+', '-', arm)}"


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{size} {_arm_name(arm)}" for arm, size in sizes.items())


def _students(run: Run) -> dict[str, list[Score]]:
    """Set -> the student's scores."""
    return {name: roles["student"] for name, roles in by_set(run.scores).items() if "student" in roles}


def _engines(run: Run) -> list[list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = run.report("evaluate").get("engines", {})
    return [made_by for name, made_by in found.items() if name.endswith("/student")]
