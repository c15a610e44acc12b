"""The compress stage: makes smaller forms of the trained student, and checks each by loading it back.

A scheme is a shard with one row. Its model is made by a script in the interpreter of [compress], in a folder
SCHEME.part that is renamed when the check has passed; a killed stage makes at most one scheme again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from pipeline.compress import asking, calibration, export_files, exports, interpreter, recovery
from pipeline.compress.asking import Reference, Reply
from pipeline.compress.exports import Export
from pipeline.compress.models import FOLDER, export_folder, export_path
from pipeline.compress.schemes import SCHEMES
from pipeline.compress.tool import Tools
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.compress import SchemeName
from pipeline.engine import previous
from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.manifest import Manifest
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.errors import UserError
from pipeline.inference import vllm_server
from pipeline.model_rows import CompressedModel
from pipeline.select.stage import SELECT
from pipeline.train.stage import TRAIN, model_folder, student_of

ROOM = 3  # times the student's bytes: an export in 32 bits, and a GGUF file in 16 on the way to 4


def check(recipe: Recipe) -> None:
    """Checks everything that can be known before any work. Raises UserError."""
    if not recipe.compress.schemes:
        raise UserError(f"compress needs schemes: [compress] schemes = [...], of {', '.join(SCHEMES)}")
    student = student_of(recipe)
    interpreter.check(recipe.compress)
    if any(asking.by_vllm(scheme) for scheme in recipe.compress.schemes):
        vllm_server.check(student)
    if recipe.compress.recovery:
        recovery.check(recipe)


def prepare(job: Job) -> Reference | None:
    """Names the shards, and takes over exports of earlier results that are still valid.

    Returns the whole student's answer to the question of the checks, unless no export is left to make.
    """
    manifest = job.output.manifest()
    assert manifest is not None, "execute() saves it first"
    job.output.save(manifest.model_copy(update={"shards": job.recipe.compress.schemes}))
    for scheme in job.recipe.compress.schemes:
        final = export_folder(job.run_dir, scheme)
        for earlier in previous.earlier_outputs(job.run_dir, FOLDER, CompressedModel):
            folder = earlier.folder / final.relative_to(job.output.folder)
            exports.take_over(final, folder, exports.made_from(manifest, scheme))
    previous.remove_old(job.stage, job.run_dir)
    if all(_finished(job, scheme) for scheme in job.recipe.compress.schemes):
        return None
    return _reference(job, _tools(job))


def work(job: Job, shards: Iterable[Shard]) -> None:
    """Makes and checks the model of each shard, and writes its row."""
    for shard in shards:
        scheme = cast(SchemeName, shard.name)
        row = _finished(job, scheme) or _make(job, scheme, _tools(job), job.prepared)
        shard.write([row.model_dump()])


def _finished(job: Job, scheme: SchemeName) -> CompressedModel | None:
    """The row of an export that is there and valid."""
    return exports.row(export_folder(job.run_dir, scheme), exports.made_from_job(job, scheme))


def _tools(job: Job) -> Tools:
    return Tools(interpreter.find(job.recipe.compress), job.output.folder / "jobs", job.logs)


def _reference(job: Job, tools: Tools) -> Reference:
    """Writes the calibration examples; returns the whole student's answer to the question of the checks."""
    model, examples = model_folder(job.run_dir), job.inputs["select"]
    whole = size(model)
    if (free := shutil.disk_usage(job.output.folder).free) < ROOM * whole:
        raise UserError(
            f"{job.output.folder}: not enough disk space to compress: {ROOM * whole / 1e9:.1f} GB needed, "
            f"{free / 1e9:.1f} GB free"
        )
    most = job.recipe.compress.calibration_examples
    manifest = job.output.manifest()
    wanted = json.dumps({"inputs": manifest.inputs if manifest else {}, "examples": most}).encode()
    kept, made_from = tools.jobs / "reference.json", tools.jobs / "made_from.json"
    if kept.is_file() and made_from.is_file() and made_from.read_bytes() == wanted:
        return Reference.model_validate_json(kept.read_bytes())
    shutil.rmtree(tools.jobs, ignore_errors=True)
    tools.jobs.mkdir(parents=True)
    write_atomic(made_from, wanted)
    calibration.write(examples, most, tools.jobs / "calibration.jsonl")
    job.say("asking the whole student the question of the checks")
    reference = asking.ask_student(model.absolute(), calibration.shortest_prompt(examples), tools)
    write_atomic(kept, reference.model_dump_json(indent=2).encode())
    return reference


def _make(job: Job, scheme: SchemeName, tools: Tools, reference: Reference) -> CompressedModel:
    """Makes an export in SCHEME.part, checks it, renames the folder, and returns its row."""
    final = export_folder(job.run_dir, scheme)
    part, student = final.with_name(f"{final.name}.part"), model_folder(job.run_dir)
    made = tools.result(scheme) if scheme == "w4a16" and part.is_dir() and recovery.goes_on(job) else None
    counts = made or _written(job, scheme, part, tools)
    wanted = job.recipe.compress.recovery if scheme == "w4a16" else None
    recovered = recovery.recover(job, wanted, part) if wanted else None
    _refuse(scheme, export_files.faults(SCHEMES[scheme].format, part, student), part)
    checked_by = asking.program(scheme, job.recipe)
    job.say(f"checking {scheme} in {checked_by}")
    path = part / export_path(job.run_dir, scheme).relative_to(final)
    reply = asking.ask(scheme, path.absolute(), reference, job, tools)
    _refuse(scheme, list(asking.faults(reply, reference)), part)
    row = _row(job, scheme, size(part), counts, checked_by, reply, reference)
    row = row.model_copy(update={"recovered": recovered})
    exports.finish(part, final, Export(made_from=exports.made_from_job(job, scheme), row=row))
    return row


def _written(job: Job, scheme: SchemeName, part: Path, tools: Tools) -> dict[str, Any]:
    """Writes an export with the student's tokenizer; returns the result of the tool."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    job.say(f"making {scheme} (log: {job.logs}/compress-{scheme}.log)")
    counts = tools.run(SCHEMES[scheme].tool, scheme, _tool_job(job, scheme, part, tools), f"making {scheme}")
    student = model_folder(job.run_dir)
    if SCHEMES[scheme].format != "gguf":
        export_files.copy_tokenizer(student, part)
    # llm-compressor writes weights that only their owner can read
    for path in filter(Path.is_file, part.rglob("*")):
        shutil.copymode(student / "config.json", path)
    return counts


def _tool_job(job: Job, scheme: SchemeName, part: Path, tools: Tools) -> dict[str, Any]:
    settings = job.recipe.compress
    calibrated = str((tools.jobs / "calibration.jsonl").absolute()) if SCHEMES[scheme].calibrated else None
    return {
        "scheme": scheme,
        "model": str(model_folder(job.run_dir).absolute()),
        "out": str(part.absolute()),
        "calibration": calibrated,
        "max_length": settings.max_length,
        "group_size": settings.group_size,
    }


def _refuse(scheme: SchemeName, faults: list[str], part: Path) -> None:
    """Raises UserError for an export that would answer with garbage; its folder stays, to be looked at."""
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if faults[1:] else ""
        raise UserError(f"the export {scheme} is broken: {faults[0]}{more}; it is left in {part}")


def _row(
    job: Job,
    scheme: SchemeName,
    bytes: int,
    counts: Mapping[str, int | None],
    checked_by: str,
    reply: Reply,
    reference: Reference,
) -> CompressedModel:
    kind = SCHEMES[scheme]
    versions = interpreter.versions(interpreter.find(job.recipe.compress), kind.makers)
    return CompressedModel(
        id=scheme,
        format=kind.format,
        path=str(export_path(job.run_dir, scheme).relative_to(job.run_dir)),
        bytes=bytes,
        whole_bytes=size(model_folder(job.run_dir)),
        made_by=", ".join(f"{name} {version}" for name, version in versions.items()),
        served_by=kind.served_by,
        gpu_only=kind.gpu_only,
        calibration_examples=counts["calibration_examples"],
        calibration_tokens=counts["calibration_tokens"],
        checked_by=checked_by,
        logprob=reply.logprob,
        whole_logprob=reference.logprob,
        answer=reply.answer,
    )


def size(folder: Path) -> int:
    """The bytes of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def report(job: Job) -> dict[str, Any]:
    """The bytes of each compressed student, and of the whole one."""
    rows: list[CompressedModel] = list(job.output.rows())
    recovered = {row.id: row.recovered.model_dump() for row in rows if row.recovered}
    return {
        "whole_bytes": rows[0].whole_bytes,
        "bytes": {row.id: row.bytes for row in rows},
        **({"recovered": recovered} if recovered else {}),
    }


def _nothing_contradicts(found: Manifest, wanted: Manifest) -> str:
    """Exports that are still valid are taken over, the others are made; those before stay in previous/."""
    return ""


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Of each scheme the settings that change what is made."""
    table = recipe.compress
    schemes: dict[str, dict[str, Any]] = {scheme: {} for scheme in table.schemes}
    for scheme, settings in schemes.items():
        if SCHEMES[cast(SchemeName, scheme)].calibrated:
            settings |= {"examples": table.calibration_examples, "max_length": table.max_length}
        if scheme == "w4a16":
            settings["group_size"] = table.group_size
            settings |= {"recovery": identity(table.recovery)} if table.recovery else {}
    return {"schemes": schemes}


COMPRESS = Stage(
    name=FOLDER,
    version=2,  # 2: column `recovered`
    row=CompressedModel,
    reads=(SELECT, TRAIN),
    settings=_settings,
    check=check,
    prepare=prepare,
    work=work,
    report=report,
    contradiction=_nothing_contradicts,
)
