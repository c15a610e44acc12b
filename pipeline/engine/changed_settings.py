"""Decides what becomes of a result that was made with other settings or inputs.

* A free stage is made again, after a line that says why. A result of the same settings that was set aside is
  brought back instead.
* A stage that asks models takes over all rows that are still valid and asks for the others only.
* Settings that contradict the rows that are there are refused, unless the command says --again.

Nothing that was paid for is lost: what was there is set aside first (`previous.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.config import Recipe
from pipeline.config.redaction import redact
from pipeline.engine import previous
from pipeline.engine.manifest import Manifest, difference
from pipeline.engine.progress import say
from pipeline.engine.stage import Job, Stage
from pipeline.engine.store import Output
from pipeline.errors import UserError


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


def is_current(stage: Stage, recipe: Recipe, run_dir: Path) -> bool:
    """Whether a stage is complete and has these settings and inputs.

    A source that cannot be read now, or an input whose folder is gone, counts as unchanged.
    """
    output = stage.output(run_dir)
    found = output.manifest()
    if found is None or not output.complete:
        return False
    try:
        wanted = manifest_of(Job(stage, recipe, run_dir))
    except UserError as e:
        say(f"{stage.name}: kept as it is, because it cannot be compared with the recipe: {e}")
        return True
    wanted = wanted.model_copy(update={"inputs": found.inputs | wanted.inputs})
    return found.made_as(wanted) and not found.partial


def claim(job: Job, wanted: Manifest) -> None:
    """Makes the folder that of the wanted manifest; sets aside what it holds of other settings or inputs."""
    stage, output, found = job.stage, job.output, job.output.manifest()
    if found is not None and (moved := previous.interrupted_move(stage, job.run_dir)):
        if job.options.part is not None:
            raise UserError(f"{moved} holds rows of an interrupted command: run it once without --part")
        previous.move_back(stage, job.run_dir, moved)
    if found is None or not output.has_output:
        back = stage.free and previous.bring_back(stage, job.run_dir, wanted)
        if not (back or previous.copy_problems(stage, job.run_dir, wanted, job.recipe.reuse)):
            output.save(wanted)
        return
    same = found.made_as(wanted)
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
    if found.made_as(wanted):
        return
    output.check_version(wanted.version)
    if what := stage.contradiction(found, wanted):
        new_run = "run=NEW reuse=THIS takes over what is still valid" if stage.asks_models else "run=NAME"
        raise UserError(
            f"{output.folder} was made with other settings: {what}; give the run another name ({new_run}), "
            f"or make it again with --again, which keeps what is there in {previous.FOLDER}/"
        )
