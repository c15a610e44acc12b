"""Where a run is published: a folder, which appears whole or not at all, or a name on the hub.

A folder is written beside its place under another name and then renamed. One that is there already is
replaced only if it was written by us, for the same run, and nothing else was put into it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError

HUB = "hub:"
MARK = "retort.json"  # says which run a folder was made of
OURS = frozenset({MARK, "README.md", "data", "traces", "student"})  # all that lies in one
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Target:
    folder: Path | None
    name: str | None  # owner/name on the hub

    @classmethod
    def read(cls, text: str) -> Target:
        """FOLDER, or hub:owner/name. Raises UserError."""
        if not text.startswith(HUB):
            return cls(Path(text), None)
        name = text.removeprefix(HUB)
        if not _NAME.fullmatch(name):
            raise UserError(f"--to {text}: a name on the hub is written {HUB}owner/name")
        return cls(None, name)


def check_writable(folder: Path, run: str) -> None:
    """Raise UserError unless the folder is not there, is empty, or is ours for the same run."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise UserError(f"{folder}: is there and is no folder")
    inside = {path.name for path in folder.iterdir()}
    if not inside:
        return
    if MARK not in inside:
        raise UserError(f"{folder}: is there and was not written by publish; name another folder")
    made_of = _made_of(folder / MARK)
    if made_of != run:
        raise UserError(f"{folder}: holds the run {made_of!r}, not {run!r}; name another folder")
    if strange := sorted(inside - OURS):
        raise UserError(f"{folder}: holds {strange[0]}, which publish did not write; name another folder")


@contextmanager
def staged(folder: Path, run: str) -> Iterator[Path]:
    """A folder to write into; at the end it takes the place of `folder`, after an error it is gone."""
    folder = Path(os.path.abspath(folder))
    stage = folder.with_name(f".{folder.name}.{os.getpid()}.unfinished")
    try:
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
        (stage / MARK).write_text(json.dumps({"run": run}) + "\n", encoding="utf-8")
        yield stage
        _sync(stage)
        _replace(stage, folder, run)
    except OSError as e:
        raise UserError(f"{folder}: cannot write: {e.strerror or e}") from e
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _made_of(mark: Path) -> str | None:
    try:
        said = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said.get("run") if isinstance(said, dict) else None


def _replace(stage: Path, folder: Path, run: str) -> None:
    """Rename; what stood there before goes only once the new one is in its place."""
    check_writable(folder, run)  # again: time has passed
    if not folder.exists():
        stage.rename(folder)
        return
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    folder.rename(old)
    stage.rename(folder)
    shutil.rmtree(old)


def _sync(stage: Path) -> None:
    """Have the files on disk before the folder is called whole."""
    for path in stage.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
