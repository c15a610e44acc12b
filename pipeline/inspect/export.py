"""`retort export`: examples or traces of a run as JSON lines, for tools that read no Parquet."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.engine.atomic_files import new_file
from pipeline.errors import UserError
from pipeline.inspect.run import Run
from pipeline.inspect.table import RowTable


def write(run: Run, path: Path, traces: bool, outcome: str | None) -> str:
    """Writes the rows to a new file, and returns how many of which kind. Raises UserError."""
    if path.suffix != ".jsonl":
        raise UserError(f"--to {path}: the file's name must end in .jsonl")
    if path.exists():
        raise UserError(f"--to {path}: exists already")
    if not path.absolute().parent.is_dir():
        raise UserError(f"--to {path}: there is no folder {path.parent}")
    rows: RowTable[Any] = run.traces if traces else run.examples
    if outcome is not None:
        rows = rows.where(outcome=outcome)
    if not rows.parts or not len(rows):
        raise UserError(f"{run.path}: nothing to write; `retort status` shows how far the run is")
    kind, counts = "outcome" if traces else "split", Counter[str]()
    with new_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for batch in rows.batches():
            for row in batch.to_pylist():
                counts[row[kind]] += 1
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    parts = ", ".join(f"{n:,} {name}" for name, n in counts.most_common())
    return f"{path}: {counts.total():,} {'traces' if traces else 'examples'} ({parts})"
