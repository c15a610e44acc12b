"""Complete checkpoints: marked once they are on disk, verified before a training resumes from one.

transformers cannot tell a checkpoint that was interrupted while being written from a complete one. Light to
import: the stage reports damaged checkpoints before it starts a process.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from pipeline.engine.atomic_files import sync_files, write_atomic

COMPLETE = "complete"  # the marker, written last: {file name: size in bytes}


def mark_complete(checkpoint: Path) -> None:
    """Syncs all files of a checkpoint to disk, then writes the marker with their sizes."""
    sync_files(checkpoint)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != COMPLETE)
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}
    write_atomic(checkpoint / COMPLETE, json.dumps(sizes).encode())


def remove_incomplete(folder: Path, say: Callable[[str], None]) -> None:
    """Deletes checkpoints without a marker, and those whose files differ from it; reports the latter.

    transformers would count them among the checkpoints to keep and resume from the newest.
    """
    damaged = {}
    for path in folder.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)
        elif damage := _damage(path):
            damaged[path] = damage
    for path, damage in damaged.items():
        shutil.rmtree(path)
        previous = newest(folder)
        say(f"{path.name} is damaged: {damage}; resuming from {previous.name if previous else 'the start'}")


def newest(folder: Path) -> Path | None:
    """The newest checkpoint with a marker."""
    marked = (path for path in folder.glob("checkpoint-*") if (path / COMPLETE).exists())
    return max(marked, key=_step, default=None)


def room(folder: Path) -> int:
    """The bytes that checkpoints take; later ones replace them."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def steps_saved(folder: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    found = newest(folder)
    return _step(found) if found else 0


def finished(checkpoint: Path) -> bool:
    """Whether no step is left after a checkpoint."""
    state = json.loads((checkpoint / "trainer_state.json").read_bytes())
    return bool(state["global_step"] >= state["max_steps"])


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _damage(checkpoint: Path) -> str | None:
    try:
        sizes = json.loads((checkpoint / COMPLETE).read_bytes())
    except ValueError:
        return f"{COMPLETE} cannot be read"
    for name, size in sizes.items():
        path = checkpoint / name
        if not path.exists():
            return f"{name} is missing"
        if (found := path.stat().st_size) != size:
            return f"{name} has {found} of {size} bytes"
    return None
