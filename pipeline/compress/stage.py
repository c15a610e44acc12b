"""The compress stage: makes smaller forms of the trained student, and checks each by loading it back.

A scheme is a shard with one row. Its model is made by a script in the interpreter of [compress], in a folder
SCHEME.part that is renamed when the check has passed; a killed stage makes at most one scheme again.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from pipeline.compress import asking, calibration, form, interpreter
from pipeline.compress.asking import Reference, Reply
from pipeline.compress.models import FOLDER, export_folder, export_path
from pipeline.compress.schemes import SCHEMES
from pipeline.compress.tool import Tools
from pipeline.config import Recipe
from pipeline.config.compression import SchemeName
from pipeline.engine import previous
from pipeline.engine.atomic_files import sync_files, write_atomic
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.errors import UserError
from pipeline.hardware import has_gpu
from pipeline.inference import vllm_server
from pipeline.rows import CompressedModel
from pipeline.select.stage import SELECT
from pipeline.train.stage import TRAIN, model_folder, student_of

ROOM = 3  # times the student's bytes: an export in 32 bits, and a GGUF file in 16 on the way to 4


def check(recipe: Recipe) -> None:
    """Checks everything that can be known before any work. Raises UserError."""
    if not recipe.compress.schemes:
        raise UserError(f"compress needs schemes: [compress] schemes = [...], of {', '.join(SCHEMES)}")
    student = student_of(recipe)
    interpreter.check(recipe.compress)
    if any(_served_here(scheme) for scheme in recipe.compress.schemes):
        vllm_server.check(student)


def _served_here(scheme: SchemeName) -> bool:
    return SCHEMES[scheme].served_by == "vllm" and (has_gpu() or not SCHEMES[scheme].gpu_only)


def prepare(job: Job) -> Reference | None:
    """Names the shards, and takes over exports of the same student that were made with the same settings.

    Returns the whole student's answer to the question of the checks, unless no export is left to make.
    """
    manifest = job.output.manifest()
    assert manifest is not None, "execute() saves it first"
    job.output.save(manifest.model_copy(update={"shards": job.recipe.compress.schemes}))
    for scheme in job.recipe.compress.schemes:
        _take_over(job, scheme)
    if all(export_folder(job.run_dir, scheme).exists() for scheme in job.recipe.compress.schemes):
        return None
    return _reference(job, _tools(job))


def work(job: Job, shards: Iterable[Shard]) -> None:
    """Makes and checks the model of each shard, and writes its row."""
    for shard in shards:
        scheme = cast(SchemeName, shard.name)
        if not export_folder(job.run_dir, scheme).exists():
            assert job.prepared is not None, "an export was there in prepare() and is gone"
            _make(job, scheme, _tools(job), job.prepared)
        shard.write([json.loads(_row_file(job.run_dir, scheme).read_bytes())])


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
    kept = tools.jobs / "reference.json"
    if kept.is_file():
        return Reference.model_validate_json(kept.read_bytes())
    tools.jobs.mkdir(parents=True, exist_ok=True)
    calibration.write(examples, job.recipe.compress.calibration_examples, tools.jobs / "calibration.jsonl")
    job.say("asking the whole student the question of the checks")
    reference = asking.ask_student(model.absolute(), calibration.shortest_prompt(examples), tools)
    write_atomic(kept, reference.model_dump_json(indent=2).encode())
    return reference


def _make(job: Job, scheme: SchemeName, tools: Tools, reference: Reference) -> None:
    """Makes an export in SCHEME.part, checks it, writes its row, and renames the folder."""
    final = export_folder(job.run_dir, scheme)
    part = final.with_name(f"{final.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    job.say(f"making {scheme} (log: {job.logs}/compress-{scheme}.log)")
    counts = tools.run(SCHEMES[scheme].tool, scheme, _tool_job(job, scheme, part, tools), f"making {scheme}")
    student = model_folder(job.run_dir)
    if SCHEMES[scheme].format != "gguf":
        form.copy_tokenizer(student, part)
    for path in filter(
        Path.is_file, part.rglob("*")
    ):  # llm-compressor writes weights that only their owner can read
        shutil.copymode(student / "config.json", path)
    _refuse(scheme, form.faults(SCHEMES[scheme].format, part, student), part)
    checked_by = asking.program(scheme, job.recipe)
    job.say(f"checking {scheme} in {checked_by}")
    path = part / export_path(job.run_dir, scheme).relative_to(final)
    reply = asking.ask(scheme, path.absolute(), reference, job, tools)
    _refuse(scheme, list(asking.faults(reply, reference)), part)
    row = _row(job, scheme, size(part), counts, checked_by, reply, reference)
    sync_files(part)
    write_atomic(_row_file(job.run_dir, scheme), row.model_dump_json(indent=2).encode())
    part.rename(final)


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


def _row_file(run_dir: Path, scheme: SchemeName) -> Path:
    """The row of an export, written before the folder gets its name."""
    return export_folder(run_dir, scheme).with_name(f"{scheme}.json")


def _take_over(job: Job, scheme: SchemeName) -> None:
    """Links an export that an earlier result of this stage has, if student and settings are the same."""
    now = job.output.manifest()
    final = export_folder(job.run_dir, scheme)
    for earlier in previous.earlier_outputs(job.run_dir, FOLDER, CompressedModel):
        then = earlier.manifest()
        folder = earlier.folder / final.relative_to(job.output.folder)
        if final.exists() or now is None or then is None or not folder.exists():
            continue
        same_settings = then.settings["schemes"].get(scheme) == now.settings["schemes"][scheme]
        if same_settings and (then.inputs, then.version) == (now.inputs, now.version):
            part = final.with_name(f"{final.name}.part")
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(folder, part, copy_function=os.link)
            shutil.copyfile(folder.with_name(f"{scheme}.json"), _row_file(job.run_dir, scheme))
            part.rename(final)


def report(job: Job) -> dict[str, Any]:
    """The bytes of each compressed student, and of the whole one."""
    rows: list[CompressedModel] = list(job.output.rows())
    return {"whole_bytes": rows[0].whole_bytes, "bytes": {row.id: row.bytes for row in rows}}


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Of each scheme the settings that change what is made."""
    table = recipe.compress
    schemes: dict[str, dict[str, Any]] = {scheme: {} for scheme in table.schemes}
    for scheme, settings in schemes.items():
        if SCHEMES[cast(SchemeName, scheme)].calibrated:
            settings |= {"examples": table.calibration_examples, "max_length": table.max_length}
        if scheme == "w4a16":
            settings["group_size"] = table.group_size
    return {"schemes": schemes}


COMPRESS = Stage(
    name=FOLDER,
    version=1,
    row=CompressedModel,
    reads=(SELECT, TRAIN),
    settings=_settings,
    check=check,
    prepare=prepare,
    work=work,
    report=report,
    free=True,
)
