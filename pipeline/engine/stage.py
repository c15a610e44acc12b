"""A stage is a value; execute() is the only way one runs. Lineage, failures and exit codes live here.

A stage's function says what to do, from a Job: the recipe, the folders it reads, the folder it writes. What
is done already, under which settings, and what the next stage may rely on, is decided here for all of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import Recipe
from pipeline.config.redaction import shareable
from pipeline.engine.atomic_files import append, write_atomic
from pipeline.engine.progress import Progress, say
from pipeline.engine.shard import Shard
from pipeline.engine.store import Manifest, Output
from pipeline.errors import Stopped, UserError, of_system
from pipeline.rows import Row

DONE, BUG, USER_ERROR, UNITS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130  # exit codes


@dataclass(frozen=True)
class Stage:
    name: str
    version: int  # raised when the same settings give another output
    row: type[Row]
    shards_from: str | None  # the stage whose shards it carries 1:1; None: its shards are its own
    reads: tuple[str, ...]  # stages that must be complete before it
    settings: Callable[[Recipe], dict[str, Any]]  # all that changes its output, as plain JSON values
    check: Callable[[Recipe], None]  # what can be known before any work; raises UserError
    run: Callable[[Job], dict[str, Any]]  # does the work, gives a report for the manifest
    free: bool = False  # its own rows cost nothing: made anew where settings or inputs differ, never refused
    tables: tuple[str, ...] = ()  # of the recipe: those that are its own, kept as it was made under them
    # Stages that it runs within itself, each with a folder of its own
    parts: Callable[[Recipe, Path], Iterable[Stage]] = lambda recipe, run_dir: ()


@dataclass
class Job:
    """What a stage's function works with."""

    stage: Stage
    recipe: Recipe
    run_dir: Path
    output: Output
    inputs: dict[str, Output]
    say: Callable[[str], None] = say
    logs: Path = field(init=False)

    def __post_init__(self) -> None:
        self.logs = self.run_dir / "logs"

    def pairs(self) -> list[tuple[Shard, Shard]]:
        """The shards of the mirrored stage, each with the shard of this stage that comes of it."""
        assert self.stage.shards_from is not None
        return list(zip(self.inputs[self.stage.shards_from].shards(), self.output.shards(), strict=True))

    def owes_nothing(self) -> bool:
        return all(shard.sealed for shard in self.output.shards())

    def progress(self, total: int | None) -> Progress:
        return Progress(self.stage.name, total, self.output.counts().rows)


def check_made(stage: Stage, recipe: Recipe, run_dir: Path) -> None:
    """Raise UserError where the stage, or a part of it, was made under other settings; writes nothing.

    An input that is yet to be made is taken for the one that the stage was made of.
    """
    output = Output(run_dir / stage.name, stage.row)
    held = output.manifest()
    if held is not None and not stage.free:
        inputs = {name: Output(run_dir / name, stage.row).manifest() for name in stage.reads}
        made = {name: m.content_id for name, m in inputs.items() if m and m.digests is not None}
        output.check(_manifest(stage, recipe, held.inputs | made))
    for part in stage.parts(recipe, run_dir):
        check_made(part, recipe, run_dir)


def execute(stage: Stage, stages: dict[str, Stage], recipe: Recipe, run_dir: Path) -> int:
    """Bring a stage to completion in its run folder; gives the exit code. A complete one is left as it is.

    Raises UserError when an input is missing or damaged, the folder was made under other settings or is in
    use, or the disk refuses; Stopped when the machine has no room for a moment. Whatever finished before an
    error or an interrupt is kept.
    """
    inputs = {name: Output(run_dir / name, stages[name].row) for name in stage.reads}
    for name, given in inputs.items():
        if not given.complete:
            raise UserError(f"{stage.name} needs {name}, which is {_state(given)}: run `retort {name}` first")
    output = Output(run_dir / stage.name, stage.row)
    job = Job(stage, recipe, run_dir, output, inputs)
    try:
        with output.lock():
            record = _record(job, stages) if stage.tables else None
            output.claim(manifest_of(job), overwrite=stage.free)
            if record is not None:
                _keep(run_dir / "recipe.json", record)
            if output.complete:
                say(f"{stage.name}: done already, {_counted(output)}")
                return DONE
            return _run(job)
    except (OSError, MemoryError) as e:
        raise of_system(e, f"{run_dir}/{stage.name}") from e


def _run(job: Job) -> int:
    began = time.monotonic()
    code = INTERRUPTED
    try:
        for given in job.inputs.values():
            given.check_unchanged()
        report = job.stage.run(job)
        counts = job.output.counts()
        code = UNITS_FAILED if counts.sealed < counts.shards else DONE
        if code == DONE:
            job.output.finish(report)
            say(f"{job.stage.name}: {_counted(job.output)} in {time.monotonic() - began:.0f} s")
        else:
            say(
                f"{job.stage.name}: {counts.failed} failed, {counts.rows} done; "
                "the same command tries the failed ones again"
            )
    except Exception as e:
        code = _code_of(e)
        raise
    finally:
        with nullcontext() if code == DONE else suppress(OSError):  # what ended the stage is told
            _note(job, code, time.monotonic() - began)
    return code


def _code_of(error: Exception) -> int:
    told = of_system(error, "") if isinstance(error, OSError | MemoryError) else error
    if isinstance(told, UserError):
        return USER_ERROR
    return UNITS_FAILED if isinstance(told, Stopped) else BUG


def manifest_of(job: Job) -> Manifest:
    """Under which settings, of which inputs, a job's folder is made."""
    manifests = {name: given.manifest() for name, given in job.inputs.items()}
    mirrored = manifests[job.stage.shards_from] if job.stage.shards_from else None
    made = _manifest(job.stage, job.recipe, {name: m.content_id for name, m in manifests.items() if m})
    return made.model_copy(update={"shards": mirrored.shards if mirrored else None})


def _manifest(stage: Stage, recipe: Recipe, inputs: Mapping[str, str]) -> Manifest:
    settings = shareable(json.loads(json.dumps(stage.settings(recipe))))
    return Manifest(stage=stage.name, version=stage.version, settings=settings, inputs=dict(inputs))


def _note(job: Job, code: int, seconds: float) -> None:
    """One line a try in the run's events.jsonl: what ran, when, how long, how it ended."""
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


def _record(job: Job, stages: Mapping[str, Stage]) -> bytes:
    """What recipe.json has to say once this stage has its folder: each table as its own stage was made under.

    Tables of stages that are not made yet are those of the recipe at hand. Raises UserError where they do not
    go together with those on record.
    """
    tables = shareable(job.recipe.model_dump(mode="json"))
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
        raise UserError(f"{job.run_dir}: the recipe does not fit what is made already: {why}") from None
    return json.dumps(tables, indent=2).encode() + b"\n"


def _keep(path: Path, record: bytes) -> None:
    """Write a file that says something else than before."""
    if not path.exists() or path.read_bytes() != record:
        write_atomic(path, record)


def _state(given: Output) -> str:
    if given.manifest() is None:
        return "not made yet"
    counts = given.counts()
    return f"unfinished ({counts.rows} done, {counts.failed} failed)"


def _counted(output: Output) -> str:
    counts = output.counts()
    return f"{counts.rows} rows in {counts.shards} shard{'' if counts.shards == 1 else 's'}"
