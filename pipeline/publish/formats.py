"""The formats in which a student is published: whole, and as the schemes that `retort compress` made.

Each is a folder of its own, in the hub a repository of its own, with a card that says what the form cost and
how it is served.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.compress import export_files
from pipeline.compress.models import compressed_models, export_folder
from pipeline.compress.schemes import SCHEMES
from pipeline.config.compress import SchemeName
from pipeline.engine.progress import say
from pipeline.errors import UserError, nearest
from pipeline.inspect.run import Run
from pipeline.model_rows import CompressedModel
from pipeline.publish import ollama, student
from pipeline.train.stage import model_folder

WHOLE, ALL = "whole", "all"
MODELFILE = "Modelfile"


def read(text: str) -> tuple[str, ...]:
    """Reads "whole,w8a8" or "all". Raises UserError for a format that does not exist."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    known = (WHOLE, ALL, *SCHEMES)
    for name in names:
        if name not in known:
            raise UserError(f"--format {name}: no such format{nearest(name, known)}")
    return names


def chosen(run: Run, formats: tuple[str, ...]) -> list[CompressedModel]:
    """The compressed students to publish. Raises UserError for one that is missing or broken."""
    made = {row.id: row for row in compressed_models(run.path)}
    wanted = list(made) if ALL in formats else [name for name in formats if name != WHOLE]
    for name in wanted:
        if name not in made:
            has = ", ".join(made) or "none"
            raise UserError(f"{run.path}: it has no {name}; `retort compress` makes it (made: {has})")
        _check(run, made[name])
    return [made[name] for name in wanted]


def _check(run: Run, row: CompressedModel) -> None:
    """Raises UserError for an export whose template, tokenizer or end tokens are not the student's."""
    folder = _folder(run, row)
    if not folder.is_dir():
        raise UserError(f"{folder} is gone: `retort compress` makes it again")
    if faults := export_files.faults(row.format, folder, model_folder(run.path)):
        raise UserError(f"{folder} is broken and is not published: {faults[0]}")


def _folder(run: Run, row: CompressedModel) -> Path:
    scheme: SchemeName = row.id  # type: ignore[assignment]  # rows are named after schemes
    return export_folder(run.path, scheme)


def write(run: Run, row: CompressedModel, folder: Path) -> bool:
    """Copies an export; writes a Modelfile beside a GGUF file. Returns whether there is one."""
    student.copy(_folder(run, row), folder)
    if row.format != "gguf":
        return False
    try:
        text = ollama.modelfile(model_folder(run.path), run.path / row.path, run.recipe.evaluate)
    except UserError as e:
        say(f"warning: no {MODELFILE} for {row.id}: {e}")
        return False
    (folder / MODELFILE).write_text(text, encoding="utf-8")
    return True
