"""Runs a stage: checks its inputs and settings, claims its folder, and records how the attempt ended.

A `Stage` is data. Its `run` function does the work and gets a `Job`: the recipe, the folders it reads and the
folder it writes. `execute` decides for all stages what is already done and what the next stage may rely on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import Recipe
from pipeline.config.redaction import redact
from pipeline.engine.atomic_files import append, write_atomic
from pipeline.engine.manifest import Manifest
from pipeline.engine.progress import Progress, say
from pipeline.engine.shard import Shard
from pipeline.engine.store import Output
from pipeline.errors import Stopped, UserError, of_system
from pipeline.rows import Row

DONE, BUG, USER_ERROR, ITEMS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes


@dataclass(frozen=True)
class Stage:
    name: str
    version: int  # raised when the same settings give another output
    row: type[Row]
    shards_from: str | None  # input stage with the same shards, one to one; None: the stage makes its own
    reads: tuple[str, ...]  # stages that must be complete first
    settings: Callable[[Recipe], dict[str, Any]]  # everything that changes the output, as plain JSON values
    check: Callable[[Recipe], None]  # finds mistakes before any work; raises UserError
    run: Callable[[Job], dict[str, Any]]  # does the work; returns the manifest's report
    recomputable: bool = False  # cheap to repeat: output of other settings is replaced instead of refused
    tables: tuple[str, ...] = ()  # its tables of the recipe, which recipe.json keeps as the stage was made
    # Stages nested in this one, each with its own folder
    substages: Callable[[Recipe, Path], Iterable[Stage]] = lambda recipe, run_dir: ()


@dataclass
class Job:
    """The arguments of a stage's `run` function."""

    stage: Stage
    recipe: Recipe
    run_dir: Path
    output: Output
    inputs: dict[str, Output]
    say: Callable[[str], None] = say

    @property
    def logs(self) -> Path:
        return self.run_dir / "logs"

    @property
    def all_sealed(self) -> bool:
        return all(shard.sealed for shard in self.output.shards())

    def shard_pairs(self) -> list[tuple[Shard, Shard]]:
        """Each shard of the stage `shards_from`, with the shard of this stage that is made from it."""
        assert self.stage.shards_from is not None
        return list(zip(self.inputs[self.stage.shards_from].shards(), self.output.shards(), strict=True))

    def progress(self, total: int | None) -> Progress:
        return Progress(self.stage.name, total, self.output.counts().rows)

    def run_substage(self, stage: Stage, stages: Mapping[str, Stage]) -> Output:
        """Completes a nested stage. Raises Stopped if some of its items failed."""
        if execute(stage, stages, self.recipe, self.run_dir) != DONE:
            raise Stopped(f"{stage.name} is incomplete; the same command continues it")
        return Output(self.run_dir / stage.name, stage.row)


def check_settings(stage: Stage, recipe: Recipe, run_dir: Path) -> None:
    """Raises UserError if the stage or a nested stage was made with other settings; writes nothing.

    An input that does not exist yet is assumed to be the one that the stage was made from.
    """
    output = Output(run_dir / stage.name, stage.row)
    made = output.manifest()
    if made is not None and not stage.recomputable:
        inputs = {name: Output(run_dir / name, stage.row).manifest() for name in stage.reads}
        complete = {name: m.content_id for name, m in inputs.items() if m and m.digests is not None}
        output.check(_manifest(stage, recipe, made.inputs | complete))
    for substage in stage.substages(recipe, run_dir):
        check_settings(substage, recipe, run_dir)


def execute(stage: Stage, stages: Mapping[str, Stage], recipe: Recipe, run_dir: Path) -> int:
    """Brings a stage to completion and returns the exit code. A complete stage stays as it is.

    stages: the input stages by name.
    Raises UserError when an input is missing or damaged, the folder was made with other settings or is in
    use, or the disk refuses; Stopped when the machine lacks a resource for the moment. Finished work is kept
    after any error or interrupt.
    """
    inputs = {name: Output(run_dir / name, stages[name].row) for name in stage.reads}
    for name, given in inputs.items():
        given.check_version(stages[name].version)
        if not given.complete:
            raise UserError(f"{stage.name} needs {name}, which is {_state(given)}: run `retort {name}` first")
    output = Output(run_dir / stage.name, stage.row)
    job = Job(stage, recipe, run_dir, output, inputs)
    try:
        with output.lock():
            record = _recipe_record(job, stages) if stage.tables else None
            output.claim(manifest_of(job), overwrite=stage.recomputable)
            if record is not None:
                _write_if_changed(run_dir / "recipe.json", record)
            if output.complete:
                say(f"{stage.name}: done already, {_counted(output)}")
                return DONE
            return _run(job)
    except (OSError, MemoryError) as e:
        raise of_system(e, f"{run_dir}/{stage.name}") from e


def _run(job: Job) -> int:
    started = time.monotonic()
    code = INTERRUPTED
    try:
        for given in job.inputs.values():
            given.check_unchanged()
        report = job.stage.run(job)
        counts = job.output.counts()
        code = ITEMS_FAILED if counts.sealed < counts.shards else DONE
        if code == DONE:
            job.output.finish(report)
            say(f"{job.stage.name}: {_counted(job.output)} in {time.monotonic() - started:.0f} s")
        else:
            say(
                f"{job.stage.name}: {counts.failed} failed, {counts.rows} done; "
                "the same command tries the failed ones again"
            )
    except Exception as e:
        code = _exit_code(e)
        raise
    finally:
        # An error of the stage itself matters more than one of writing this line
        with nullcontext() if code == DONE else suppress(OSError):
            _append_event(job, code, time.monotonic() - started)
    return code


def _exit_code(error: Exception) -> int:
    if isinstance(error, OSError | MemoryError):
        error = of_system(error, "")
    if isinstance(error, UserError):
        return USER_ERROR
    return ITEMS_FAILED if isinstance(error, Stopped) else BUG


def manifest_of(job: Job) -> Manifest:
    """The manifest of a job that has not finished."""
    manifests = {name: given.manifest() for name, given in job.inputs.items()}
    template = manifests[job.stage.shards_from] if job.stage.shards_from else None
    manifest = _manifest(job.stage, job.recipe, {name: m.content_id for name, m in manifests.items() if m})
    return manifest.model_copy(update={"shards": template.shards if template else None})


def _manifest(stage: Stage, recipe: Recipe, inputs: Mapping[str, str]) -> Manifest:
    settings = redact(json.loads(json.dumps(stage.settings(recipe))))
    return Manifest(stage=stage.name, version=stage.version, settings=settings, inputs=dict(inputs))


def _append_event(job: Job, code: int, seconds: float) -> None:
    """Appends one line per attempt to the run's events.jsonl."""
    counts = job.output.counts()
    event = {
        "stage": job.stage.name,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "exit_code": code,
        "rows": counts.rows,
        "failed": counts.failed,
    }
    append(job.run_dir / "events.jsonl", json.dumps(event).encode() + b"\n")


def _recipe_record(job: Job, stages: Mapping[str, Stage]) -> bytes:
    """The content of recipe.json: each table as the stage that owns it was made, or else as given now.

    Raises UserError if the given tables contradict the recorded ones.
    """
    tables = redact(job.recipe.model_dump(mode="json"))
    with suppress(FileNotFoundError, ValueError):
        recorded = Recipe.model_validate_json((job.run_dir / "recipe.json").read_bytes())
        before = recorded.model_dump(mode="json")
        for other in stages.values():
            if other.name != job.stage.name and Output(job.run_dir / other.name, other.row).manifest():
                tables |= {name: before[name] for name in other.tables}
    try:
        Recipe.model_validate(tables)
    except ValidationError as e:
        why = e.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"{job.run_dir}: the recipe contradicts what is already made: {why}") from None
    return json.dumps(tables, indent=2).encode() + b"\n"


def _write_if_changed(path: Path, data: bytes) -> None:
    if not path.exists() or path.read_bytes() != data:
        write_atomic(path, data)


def _state(given: Output) -> str:
    if given.manifest() is None:
        return "not made yet"
    counts = given.counts()
    return f"unfinished ({counts.rows} done, {counts.failed} failed)"


def _counted(output: Output) -> str:
    counts = output.counts()
    return f"{counts.rows} rows in {counts.shards} shard{'' if counts.shards == 1 else 's'}"
