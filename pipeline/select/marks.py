"""Marks and notes of people on traces: keep.jsonl and notes.jsonl in a run's folder.

`retort view` appends to them. Each line is a JSON object with the id of a trace; the last line of a trace
counts.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from pipeline.engine import atomic_files
from pipeline.errors import UserError
from pipeline.rows import Row, Trace

MARKS, NOTES = "keep.jsonl", "notes.jsonl"
OTHER_TEXT = "marks_of_other_texts"  # the count of marks on kept traces that do not count
Mark = Literal["keep", "drop"]


class Marked(Row):
    """A line of keep.jsonl."""

    trace: str
    mark: Mark | None  # None: the mark is taken away
    text: str | None = None  # text_hash() of the trace; None: the mark counts whatever its text is

    def counts_on(self, reasoning: str | None, response: str) -> bool:
        return self.text in (None, text_hash(reasoning, response))


class Noted(Row):
    """A line of notes.jsonl."""

    trace: str
    note: str  # "": the note is taken away


L = TypeVar("L", Marked, Noted)


def append(run_dir: Path, line: Marked | Noted) -> None:
    """Adds a mark or a note; it is on disk when this returns."""
    name = MARKS if isinstance(line, Marked) else NOTES
    atomic_files.append(run_dir / name, line.model_dump_json().encode() + b"\n")


def text_hash(reasoning: str | None, response: str) -> str:
    """Tells a trace from another one of the same id, as `--again` or another run makes them."""
    return hashlib.sha256(f"{reasoning or ''}\n{response}".encode()).hexdigest()


def read_marks(path: Path) -> dict[str, Marked]:
    """Trace -> its mark. Raises UserError for a line that is none."""
    return {id: line for id, line in _read(path, Marked).items() if line.mark}


def marks_on(traces: Iterable[Trace], lines: Mapping[str, Marked], counts: Counter[str]) -> dict[str, Mark]:
    """The marks of these traces by id; counts those that were set on another text, which do not count."""
    found: dict[str, Mark] = {}
    for trace in traces:
        line = lines.get(trace.id)
        if line is None or line.mark is None:
            continue
        if line.counts_on(trace.reasoning, trace.response):
            found[trace.id] = line.mark
        else:
            counts[OTHER_TEXT] += 1
    return found


def marks_hash(path: Path) -> str:
    """A hash of the marks that count: the same after a mark was changed and changed back."""
    marks = {id: (line.mark, line.text) for id, line in read_marks(path).items()}
    return hashlib.sha256(json.dumps(marks, sort_keys=True).encode()).hexdigest()[:16]


def read_notes(path: Path) -> dict[str, str]:
    """Trace -> the note on it. Raises UserError for a line that is none."""
    return {id: line.note for id, line in _read(path, Noted).items() if line.note}


def _read(path: Path, kind: type[L]) -> dict[str, L]:
    lines = {}
    for number, text in enumerate(path.read_bytes().splitlines() if path.exists() else (), 1):
        try:
            line = kind.model_validate_json(text)
        except ValidationError as e:
            required = (name for name, field in kind.model_fields.items() if field.is_required())
            wanted = " and ".join(f'"{name}"' for name in required)
            raise UserError(
                f"{path}, line {number}: {e.errors()[0]['msg']}; a line is a JSON object with {wanted}"
            ) from None
        lines[line.trace] = line
    return lines
