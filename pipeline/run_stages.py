"""Runs stages of a recipe: what `retort run` and the stage commands do, and the same from Python.

>>> from pipeline import run_recipe, run_stage
>>> for stage in ("ingest", "generate", "filter"):  # run_recipe("traces.toml") runs all of them
...     run = run_stage(stage, "traces.toml")
>>> run.why().kept
3
>>> run = run_stage("filter", "traces.toml", "filter.rules.correct=false")  # with a setting changed
>>> run.why().kept
4
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.check import requirements
from pipeline.config import Recipe
from pipeline.config.cluster import Ray
from pipeline.config.load import load_recipe
from pipeline.engine.changed_settings import check_settings
from pipeline.engine.execute import DONE, execute
from pipeline.engine.options import Options
from pipeline.engine.progress import say
from pipeline.errors import Stopped, UserError, nearest
from pipeline.inspect import score_table, stage_summary
from pipeline.inspect.run import RUNS, Run, open_run
from pipeline.stages import STAGES, stages_of


def run_recipe(
    recipe: str | Path | Recipe,
    *settings: str,
    runs: str | Path = RUNS,
    partial: bool = False,
    again: bool = False,
) -> Run:
    """Runs or resumes all stages of a recipe and returns the run.

    settings: as on the command line, such as "generate.samples=2". partial, again: as --partial and --again.
    Raises UserError for a mistake to correct; Stopped when items failed and the same call tries them again.
    """
    loaded = _loaded(recipe, settings)
    return _run(loaded, tuple(stages_of(loaded)), Path(runs), Options(partial, again), whole=True)


def run_stage(
    stage: str,
    recipe: str | Path | Recipe,
    *settings: str,
    runs: str | Path = RUNS,
    partial: bool = False,
    again: bool = False,
) -> Run:
    """Runs or resumes one stage of a recipe and returns the run. See `run_recipe`."""
    if stage not in STAGES:
        raise UserError(f"no stage {stage!r}{nearest(stage, STAGES)}")
    return _run(_loaded(recipe, settings), (stage,), Path(runs), Options(partial, again), whole=False)


def execute_all(
    recipe: Recipe, names: Sequence[str], runs: Path, options: Options, whole: bool
) -> Iterator[tuple[str, int]]:
    """Runs stages and yields each with its exit code, up to the first that is not done.

    All stages are checked before the first one writes; with `whole`, everything that they need is checked.
    """
    recipe.check_single()
    if options.hand_out is None:
        recipe = recipe.model_copy(update={"ray": Ray()})  # not used by this command, nor its GPUs
    wanted, folder = stages_of(recipe), runs / recipe.run
    stages = STAGES | wanted
    if whole:
        requirements.require(recipe, folder, options.again)
    else:
        for name in names:
            stages[name].check(recipe)
        for name in names:
            check_settings(stages[name], recipe, folder, options.again)
    for name in names:
        if name == "evaluate" and "select" in names and recipe.student is None:
            say("train: skipped, the recipe has no [student]; evaluate scores the teachers alone")
        code = execute(stages[name], recipe, folder, options)
        yield name, code
        if code != DONE or not stages[name].output(folder).complete:  # the other parts of an array job
            return
        for line in stage_summary.lines(open_run(folder), name):
            say(line)
    if "evaluate" in names:
        score_table.print_table(open_run(folder))


def exit_code(recipe: Recipe, names: Sequence[str], runs: Path, options: Options, whole: bool) -> int:
    """Runs stages as `execute_all` does; returns the exit code of the last one."""
    return [code for _, code in execute_all(recipe, names, runs, options, whole)][-1]


def _run(recipe: Recipe, names: Sequence[str], runs: Path, options: Options, whole: bool) -> Run:
    for name, code in execute_all(recipe, names, runs, options, whole):
        if code != DONE:
            raise Stopped(f"{name}: some items failed; the same call tries them again")
    return open_run(runs / recipe.run)


def _loaded(recipe: str | Path | Recipe, settings: Sequence[str]) -> Recipe:
    if isinstance(recipe, Recipe):
        if settings:
            raise UserError("settings are for a recipe given by its path; change the Recipe object instead")
        return recipe
    return load_recipe(Path(recipe), settings)
