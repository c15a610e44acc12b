"""Checkpoints that are whole: marked once they are on disk, and looked at before one is gone on from.

transformers cannot tell a checkpoint that a kill or a crash cut short. Light to import: the stage says what
was found, before any process starts.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.engine.atomic_files import write_atomic

COMPLETE = "complete"  # the file written last into a checkpoint: {name of each file: its bytes}


def mark(checkpoint: Path) -> None:
    """Have all files of it on disk, then say so in it."""
    sizes = {}
    for path in _files(checkpoint):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[str(path.relative_to(checkpoint))] = path.stat().st_size
    write_atomic(checkpoint / COMPLETE, json.dumps(sizes).encode())


def tidy(folder: Path, say: Callable[[str], None]) -> None:
    """Delete what a kill left of checkpoints, and those with a file that is not as it was written, saying so.

    They would count among those kept, and the newest is gone on from.
    """
    damaged = {}
    for path in folder.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)
        elif wrong := _wrong(path):
            damaged[path] = wrong
    for path, wrong in damaged.items():
        shutil.rmtree(path)
        whole = newest(folder)
        say(f"{path.name} is damaged: {wrong}; going on from {whole.name if whole else 'the start'}")


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is marked."""
    marked = (path for path in folder.glob("checkpoint-*") if (path / COMPLETE).exists())
    return max(marked, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _wrong(checkpoint: Path) -> str | None:
    try:
        sizes = json.loads((checkpoint / COMPLETE).read_bytes() or b"{}")  # older marks say nothing
    except ValueError:
        return f"{COMPLETE} cannot be read"
    for name, size in sizes.items():
        path = checkpoint / name
        found = path.stat().st_size if path.exists() else None
        if found != size:
            return f"{name} has {found} of {size} bytes" if found is not None else f"{name} is gone"
    empty = next((path.name for path in _files(checkpoint) if not sizes and not path.stat().st_size), None)
    return f"{empty} is empty" if empty else None


def _files(checkpoint: Path) -> list[Path]:
    return sorted(p for p in checkpoint.rglob("*") if p.is_file() and p.name != COMPLETE)
