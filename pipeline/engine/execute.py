"""Runs a stage: checks inputs and settings, claims its folder, hands out its shards, records the attempt.

What happens to a result of other settings or inputs:

* A free stage is made again, after a line that says why. A result of the same settings that was set aside is
  brought back instead.
* A stage that asks models takes over all rows that are still valid and asks for the others only.
* Settings that contradict the rows that are there are refused, unless the command says --again.

Nothing is deleted: what was there is set aside first (`previous.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from pipeline.config import TABLES, Recipe
from pipeline.config.redaction import redact
from pipeline.engine import earlier_rows, executor, previous, run_records
from pipeline.engine.manifest import Manifest, difference
from pipeline.engine.options import NO_OPTIONS, Options
from pipeline.engine.progress import say
from pipeline.engine.shard import MISSING
from pipeline.engine.stage import Job, ShareDone, Stage
from pipeline.engine.store import Output
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
        with job.output.lock(shared=options.part is not None):
            record = run_records.recipe_record(job) if stage.name in TABLES else None
            wanted = manifest_of(job)
            _claim(job, wanted)
            if record is not None:
                run_records.write_recipe(run_dir, record)
            if job.output.complete:
                say(f"{stage.name}: done already, {_counted(job.output)}")
                return DONE
            return _run(job)
    except (OSError, MemoryError) as e:
        raise of_system(e, f"{run_dir}/{stage.name}") from e


def complete(stage: Stage, job: Job) -> Output:
    """Completes a stage nested in the job's. Raises Stopped if some of its items failed."""
    if execute(stage, job.recipe, job.run_dir, job.options) != DONE:
        raise Stopped(f"{stage.name} is incomplete; the same command continues it")
    output = stage.output(job.run_dir)
    if not output.complete:
        raise ShareDone
    return output


def check_settings(stage: Stage, recipe: Recipe, run_dir: Path, again: bool = False) -> None:
    """Raises UserError if the settings contradict what the stage or a nested stage has; writes nothing.

    An input that does not exist yet is assumed to be the one that the stage was made from.
    """
    output = stage.output(run_dir)
    found = output.manifest()
    if found is not None and output.has_output and not stage.free and not again:
        inputs = {given.name: given.output(run_dir).manifest() for given in stage.reads}
        complete = {name: m.content_id for name, m in inputs.items() if m and m.digests is not None}
        _refuse_contradiction(stage, output, found, _manifest(stage, recipe, found.inputs | complete))
    for substage in stage.substages(recipe, run_dir):
        check_settings(substage, recipe, run_dir, again)


def manifest_of(job: Job) -> Manifest:
    """The manifest of a job that has not finished."""
    manifests = {name: given.manifest() for name, given in job.inputs.items()}
    template = manifests[job.stage.shards_from] if job.stage.shards_from else None
    manifest = _manifest(job.stage, job.recipe, {name: m.content_id for name, m in manifests.items() if m})
    return manifest.model_copy(update={"shards": template.shards if template else job.stage.shards})


def _manifest(stage: Stage, recipe: Recipe, inputs: Mapping[str, str]) -> Manifest:
    settings = redact(json.loads(json.dumps(stage.settings(recipe))))
    return Manifest(stage=stage.name, version=stage.version, settings=settings, inputs=dict(inputs))


def _prepare_input(stage: Stage, given: Stage, recipe: Recipe, run_dir: Path, options: Options) -> None:
    """Brings a free input up to date; raises UserError if the stage cannot work on the input."""
    output = given.output(run_dir)
    if given.free and output.complete and not is_current(given, recipe, run_dir):
        execute(given, recipe, run_dir, replace(options, part=None))
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


def is_current(stage: Stage, recipe: Recipe, run_dir: Path) -> bool:
    """Whether a stage is complete and has these settings and inputs.

    A source that cannot be read now counts as unchanged.
    """
    output = stage.output(run_dir)
    if not output.complete:
        return False
    found = output.manifest()
    try:
        wanted = manifest_of(Job(stage, recipe, run_dir))
    except UserError as e:
        say(f"{stage.name}: kept as it is, because it cannot be compared with the recipe: {e}")
        return True
    return found is not None and found.identity == wanted.identity and not found.partial


def _claim(job: Job, wanted: Manifest) -> None:
    """Makes the folder that of the wanted manifest; sets aside what it holds of other settings or inputs."""
    stage, output, found = job.stage, job.output, job.output.manifest()
    if found is None or not output.has_output:
        if not (stage.free and previous.bring_back(stage, job.run_dir, wanted)):
            output.save(wanted)
        return
    same = found.identity == wanted.identity
    if same and not (found.partial and not job.options.partial):
        return
    if job.options.part is not None:
        raise UserError(
            f"{output.folder} was made with other settings: run the command once without --part, which sets "
            "the earlier result aside"
        )
    if not (same or stage.free or job.options.again):
        _refuse_contradiction(stage, output, found, wanted)
    what = "it was partial" if same else difference(found, wanted)
    if stage.free and previous.bring_back(stage, job.run_dir, wanted):
        say(f"{stage.name}: {what}, so the earlier result of these settings is brought back")
        return
    aside = previous.set_aside(stage, job.run_dir)
    does = "asks for what is new" if stage.asks_models else "runs again"
    say(f"{stage.name}: {what}, so it {does}" + (f"; the result before is in {aside}" if aside else ""))
    output.save(wanted)


def _refuse_contradiction(stage: Stage, output: Output, found: Manifest, wanted: Manifest) -> None:
    if found.identity == wanted.identity:
        return
    output.check_version(wanted.version)
    if what := stage.contradiction(found, wanted):
        new_run = "run=NEW reuse=THIS takes over what is still valid" if stage.asks_models else "run=NAME"
        raise UserError(
            f"{output.folder} was made with other settings: {what}; give the run another name ({new_run}), "
            f"or make it again with --again, which keeps what is there in {previous.FOLDER}/"
        )


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
