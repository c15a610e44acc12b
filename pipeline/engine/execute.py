"""Runs a stage: checks inputs and settings, claims its folder, hands out its shards, records the attempt."""

from __future__ import annotations

import functools
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from pipeline.config import TABLES, Recipe
from pipeline.engine import earlier_rows, executor, previous, run_records
from pipeline.engine.changed_settings import claim, is_current, manifest_of
from pipeline.engine.options import NO_OPTIONS, Options
from pipeline.engine.progress import say
from pipeline.engine.shard import MISSING
from pipeline.engine.stage import Job, ShareDone, Stage
from pipeline.engine.store import InUse, Output
from pipeline.errors import Stopped, UserError, of_system

DONE, BUG, USER_ERROR, ITEMS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes


def execute(stage: Stage, recipe: Recipe, run_dir: Path, options: Options = NO_OPTIONS) -> int:
    """Brings a stage to completion and returns the exit code. A complete stage stays as it is.

    Raises UserError when an input is missing or damaged, the settings contradict the folder, it is in use, or
    the disk refuses; Stopped when the machine lacks a resource for the moment. Finished work is kept after
    any error or interrupt.
    """
    for given in stage.reads:
        _prepare_input(stage, given, recipe, run_dir, options)
    job = Job(stage, recipe, run_dir, options)
    try:
        # What other settings made can be set aside while no other part is at work
        whole = replace(job, options=replace(options, part=None))
        with job.output.lock(shared=options.part is not None, first=functools.partial(_claim, whole)):
            _claim(job)
            if job.output.complete:
                say(f"{stage.name}: done already, {_counted(job.output)}")
                return DONE
            return _run(job)
    except (OSError, MemoryError) as e:
        raise of_system(e, f"{run_dir}/{stage.name}") from e


def _claim(job: Job) -> None:
    """Makes the stage's folder that of the job, and records its recipe unless the stage is nested."""
    record = run_records.recipe_record(job) if job.stage.name in TABLES else None
    claim(job, manifest_of(job))
    if record is not None:
        run_records.write_recipe(job.run_dir, record)


def complete(stage: Stage, job: Job) -> Output:
    """Completes a stage nested in the job's. Raises Stopped if some of its items failed.

    Raises ShareDone if other parts of the job still work on it.
    """
    output = stage.output(job.run_dir)
    if is_current(stage, job.recipe, job.run_dir):
        return output
    options = replace(job.options, part=None) if stage.one_worker else job.options
    try:
        code = execute(stage, job.recipe, job.run_dir, options)
    except InUse:
        if job.options.part is None:
            raise
        raise ShareDone from None
    if code != DONE:
        raise Stopped(f"{stage.name} is incomplete; the same command continues it")
    if not output.complete:
        raise ShareDone
    return output


def _prepare_input(stage: Stage, given: Stage, recipe: Recipe, run_dir: Path, options: Options) -> None:
    """Brings a free input up to date; raises UserError if the stage cannot work on the input."""
    output = given.output(run_dir)
    _bring_up_to_date(given, recipe, run_dir, options)
    output.check_version(given.version)
    if not output.complete and given.asks_models and options.partial:
        execute(given, recipe, run_dir, options)
    if not output.complete:
        begun = given.asks_models and output.manifest() is not None
        hint = ", or add --partial to work on what is there" if begun else ""
        raise UserError(
            f"{stage.name} needs {given.name}, which is {_state(output)}: "
            f"run `retort {given.name}` first{hint}"
        )
    manifest = output.manifest()
    if manifest and manifest.partial and not options.partial:
        missing = ", ".join(f"{count} rows of {name}" for name, count in manifest.partial.items())
        raise UserError(
            f"{stage.name} needs {given.name}, which was made with --partial and lacks {missing}: "
            f"run `retort {next(iter(manifest.partial))}` to complete it, or add --partial here too"
        )


def _bring_up_to_date(stage: Stage, recipe: Recipe, run_dir: Path, options: Options) -> None:
    """Runs a free stage again, and before it the free stages that it reads, if settings or inputs changed."""
    if not (stage.free and stage.output(run_dir).complete):
        return
    for given in stage.reads:
        _bring_up_to_date(given, recipe, run_dir, options)
    if stage.reads:  # otherwise it reads sources, which may be gone by now
        stage.check(recipe)
    if not is_current(stage, recipe, run_dir):
        execute(stage, recipe, run_dir, replace(options, part=None))


def _run(job: Job) -> int:
    started = time.monotonic()
    code = INTERRUPTED
    try:
        for given in job.inputs.values():
            given.check_unchanged()
        code = _work(job, started)
    except Exception as e:
        code = _exit_code(e)
        raise
    finally:
        # An error of the stage itself matters more than one of writing this line
        with nullcontext() if code == DONE else suppress(OSError):
            run_records.append_event(job, code, time.monotonic() - started)
    return code


def _work(job: Job, started: float) -> int:
    stage, output = job.stage, job.output
    try:
        if stage.prepare is not None:
            job.prepared = stage.prepare(job)
        executor.run(job, job.share())
    except ShareDone:
        say(f"{stage.name}: waits for other parts of a nested stage; run the same command after them")
        return DONE
    counts = output.counts()
    if counts.sealed == counts.shards:
        partial = _finish(job)
        lacks = "".join(f", without {count} rows of {name}" for name, count in partial.items())
        say(f"{stage.name}: {_counted(output)}{lacks} in {time.monotonic() - started:.0f} s")
        return DONE
    if job.options.part is not None and all(shard.sealed for shard in job.share()):
        say(f"{stage.name}: this part is done; the command without --part finishes the stage")
        return DONE
    say(
        f"{stage.name}: {counts.failed} failed, {counts.rows} done; "
        "the same command tries the failed ones again"
    )
    return ITEMS_FAILED


def _finish(job: Job) -> dict[str, int]:
    """Writes the manifest's report; returns the rows that are missing, by stage."""
    stage, output = job.stage, job.output
    report = stage.report(job) if stage.report else {}
    behind = [*stage.reads, *stage.substages(job.recipe, job.run_dir)]
    manifests = (given.output(job.run_dir).manifest() for given in behind)
    partial = {name: count for m in manifests if m for name, count in m.partial.items()}
    if missing := output.report()[MISSING]:
        partial[stage.name] = missing
    output.finish(report, partial)
    if stage.free:
        previous.remove_old(stage, job.run_dir)
    elif stage.asks_models:
        earlier_rows.remove_superseded(job)
    return partial


def _exit_code(error: Exception) -> int:
    if isinstance(error, OSError | MemoryError):
        error = of_system(error, "")
    if isinstance(error, UserError):
        return USER_ERROR
    return ITEMS_FAILED if isinstance(error, Stopped) else BUG


def _state(given: Output) -> str:
    if given.manifest() is None:
        return "not made yet"
    counts = given.counts()
    return f"unfinished ({counts.rows} done, {counts.failed} failed)"


def _counted(output: Output) -> str:
    counts = output.counts()
    return f"{counts.rows} rows in {counts.shards} shard{'' if counts.shards == 1 else 's'}"
