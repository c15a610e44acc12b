"""Where a run is published: a folder, which appears whole or not at all, or a name on the hub.

A folder is written beside its place under another name, and the two are exchanged. One that is there already
is replaced only if it was written by us, for the same run, and no other file was put into it.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.engine.atomic_files import alive
from pipeline.errors import UserError

HUB = "hub:"
MARK = "retort.json"  # says which run a folder was made of, and which files we wrote
UNFINISHED, OLD = ".unfinished", ".old"  # what a folder beside its place is
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
    inside = _files(folder)
    if not inside and not any(folder.iterdir()):
        return
    made_of, ours = _mark(folder)
    if made_of is None:
        raise UserError(f"{folder}: is there and was not written by publish; name another folder")
    if made_of != run:
        raise UserError(f"{folder}: holds the run {made_of!r}, not {run!r}; name another folder")
    if strange := sorted(inside - ours - {MARK}):
        raise UserError(f"{folder}: holds {strange[0]}, which publish did not write; name another folder")


@contextmanager
def staged(folder: Path, run: str) -> Iterator[Path]:
    """A folder to write into; at the end it takes the place of `folder`, after an error it is gone."""
    folder = Path(os.path.abspath(folder))
    stage = _beside(folder, UNFINISHED)
    try:
        _clean_up(folder)
        stage.mkdir(parents=True)
        yield stage
        mark = {"run": run, "files": sorted(_files(stage))}
        (stage / MARK).write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")
        _sync(stage)
        _replace(stage, folder, run)
    except OSError as e:
        raise UserError(f"{folder}: cannot write: {e.strerror or e}") from e
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _files(folder: Path) -> set[str]:
    """All files and links below a folder, by their paths in it."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}


def _mark(folder: Path) -> tuple[str | None, set[str]]:
    """Which run a folder was made of, and the files that were written then; None for a folder of others."""
    try:
        said = json.loads((folder / MARK).read_text(encoding="utf-8"))
        return str(said["run"]), set(said["files"])
    except (OSError, ValueError, LookupError, TypeError):
        return None, set()


def _replace(stage: Path, folder: Path, run: str) -> None:
    """Put the new folder in its place; the old one goes only once the new one is there."""
    check_writable(folder, run)  # again: time has passed
    if not folder.exists():
        stage.rename(folder)
    elif _exchange(stage, folder):
        shutil.rmtree(stage)
    else:  # a kill between the two renames is mended by the next publish
        old = _beside(folder, OLD)
        folder.rename(old)
        stage.rename(folder)
        shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, where system and disk can."""
    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of <linux/fs.h>
    try:
        swap = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    return bool(swap(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0)


def _beside(folder: Path, suffix: str) -> Path:
    """The folder's place beside it, named after this process and its machine."""
    return folder.with_name(f".{folder.name}.{os.getpid()}@{os.uname().nodename}{suffix}")


def _clean_up(folder: Path) -> None:
    """Take away what processes that are gone left beside the folder; put it back where they had moved it."""
    node = re.escape(os.uname().nodename)
    own = re.compile(rf"(\d+)@{node}({re.escape(UNFINISHED)}|{re.escape(OLD)})")
    for path in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
        made = own.fullmatch(path.name.removeprefix(f".{folder.name}."))
        if made is None or (made[1] != str(os.getpid()) and alive(made[1])):
            continue
        if made[2] == OLD and not folder.exists():
            path.rename(folder)
        else:
            shutil.rmtree(path)


def _sync(stage: Path) -> None:
    """Have the files on disk before the folder is called whole."""
    for path in stage.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
