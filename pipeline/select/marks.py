"""Marks and notes of people on traces: keep.jsonl and notes.jsonl in a run's folder.

`retort view` appends to them. Each line is a JSON object with the id of a trace; the last line of a trace
counts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from pipeline.engine import atomic_files
from pipeline.errors import UserError
from pipeline.rows import Row

MARKS, NOTES = "keep.jsonl", "notes.jsonl"
Mark = Literal["keep", "drop"]


class Marked(Row):
    """A line of keep.jsonl."""

    trace: str
    mark: Mark | None  # None: the mark is taken away


class Noted(Row):
    """A line of notes.jsonl."""

    trace: str
    note: str  # "": the note is taken away


L = TypeVar("L", Marked, Noted)


def append(run_dir: Path, line: Marked | Noted) -> None:
    """Adds a mark or a note; it is on disk when this returns."""
    name = MARKS if isinstance(line, Marked) else NOTES
    atomic_files.append(run_dir / name, line.model_dump_json().encode() + b"\n")


def read_marks(path: Path) -> dict[str, Mark]:
    """Trace -> its mark. Raises UserError for a line that is none."""
    return {id: line.mark for id, line in _read(path, Marked).items() if line.mark}


def marks_hash(path: Path) -> str:
    """A hash of the marks that count: the same after a mark was changed and changed back."""
    return hashlib.sha256(json.dumps(read_marks(path), sort_keys=True).encode()).hexdigest()[:16]


def read_notes(path: Path) -> dict[str, str]:
    """Trace -> the note on it. Raises UserError for a line that is none."""
    return {id: line.note for id, line in _read(path, Noted).items() if line.note}


def _read(path: Path, kind: type[L]) -> dict[str, L]:
    lines = {}
    for number, text in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            line = kind.model_validate_json(text)
        except ValidationError as e:
            wanted = " and ".join(f'"{name}"' for name in kind.model_fields)
            raise UserError(
                f"{path}, line {number}: {e.errors()[0]['msg']}; a line is a JSON object with {wanted}"
            ) from None
        lines[line.trace] = line
    return lines
