"""Finished exports: a folder, and beside it a file with its row and what it was made from.

An export stays valid as long as student, calibration and the settings of its scheme do, whatever else the
recipe changes.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline.engine.atomic_files import sync_files, write_atomic
from pipeline.engine.manifest import Manifest
from pipeline.engine.stage import Job
from pipeline.model_rows import CompressedModel


class Export(BaseModel):
    model_config = ConfigDict(frozen=True)
    made_from: dict[str, Any]  # as made_from() says
    row: CompressedModel


def made_from(manifest: Manifest, scheme: str) -> dict[str, Any]:
    """Everything that the export of a scheme depends on, as JSON values."""
    settings = manifest.settings["schemes"][scheme]
    return {"version": manifest.version, "inputs": manifest.inputs, "settings": settings}


def made_from_job(job: Job, scheme: str) -> dict[str, Any]:
    """What the export of a scheme depends on in a running job."""
    manifest = job.output.manifest()
    assert manifest is not None, "execute() saves it first"
    return made_from(manifest, scheme)


def row(folder: Path, wanted: dict[str, Any]) -> CompressedModel | None:
    """The row of a finished export that was made from what is wanted; None if there is none."""
    try:
        found = Export.model_validate_json(_file(folder).read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found.row if found.made_from == wanted and folder.is_dir() else None


def finish(part: Path, folder: Path, export: Export) -> None:
    """Gives an export its final name. Killed at any moment, it leaves a finished export or none."""
    shutil.rmtree(folder, ignore_errors=True)  # of other settings
    sync_files(part)
    write_atomic(_file(folder), export.model_dump_json(indent=2).encode())
    part.rename(folder)


def take_over(folder: Path, earlier: Path, wanted: dict[str, Any]) -> None:
    """Links an export of an earlier result, if it was made from what is wanted."""
    found = row(earlier, wanted)
    if found is None or row(folder, wanted) is not None:
        return
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(earlier, part, copy_function=_link)
    finish(part, folder, Export(made_from=wanted, row=found))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.json")
