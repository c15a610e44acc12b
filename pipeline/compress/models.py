"""Where the compressed students of a run lie. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from pipeline.compress.schemes import SCHEMES
from pipeline.config.compress import SchemeName
from pipeline.engine.store import Output
from pipeline.model_rows import CompressedModel

FOLDER = "compress"  # of the stage, in the run's folder


def compressed_models(run_dir: Path) -> list[CompressedModel]:
    """The compressed students of a run, in the recipe's order; none until the stage is complete."""
    output = Output(run_dir / FOLDER, CompressedModel)
    return list(output.rows()) if output.complete else []


def export_folder(run_dir: Path, scheme: SchemeName) -> Path:
    """The folder with all files of a compressed student: complete, or absent."""
    return run_dir / FOLDER / "models" / scheme


def export_path(run_dir: Path, scheme: SchemeName) -> Path:
    """What a server is given: the folder, or the file of a GGUF model."""
    folder = export_folder(run_dir, scheme)
    return folder / "model.gguf" if SCHEMES[scheme].format == "gguf" else folder
