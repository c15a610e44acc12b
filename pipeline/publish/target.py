"""The target of publishing: a folder, which appears whole or not at all, or a repository on the hub.

A new folder is written next to its place under another name, then the two are exchanged. An existing folder
is replaced only if publish wrote it for the same run and it holds no other file.
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

from pipeline.engine.atomic_files import alive, sync_files
from pipeline.errors import UserError

HUB = "hub:"
MARK = "retort.json"  # holds the run of a folder and the files that publish wrote
UNFINISHED, OLD = ".unfinished", ".old"  # suffixes of folders next to the target
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Target:
    folder: Path | None
    name: str | None  # owner/name on the hub

    @classmethod
    def read(cls, text: str) -> Target:
        """Parses FOLDER or hub:owner/name. Raises UserError for a malformed name."""
        if not text.startswith(HUB):
            return cls(Path(text), None)
        name = text.removeprefix(HUB)
        if not _NAME.fullmatch(name):
            raise UserError(f"--to {text}: a name on the hub is written {HUB}owner/name")
        return cls(None, name)


def check_writable(folder: Path, run: str) -> None:
    """Raises UserError unless the folder is missing, empty, or written by publish for the same run."""
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise UserError(f"{folder} exists and is not a folder")
    inside = _files(folder)
    if not inside and not any(folder.iterdir()):
        return
    made_of, ours = _mark(folder)
    if made_of is None:
        raise UserError(f"{folder} exists and was not written by publish; name another folder")
    if made_of != run:
        raise UserError(f"{folder}: holds the run {made_of!r}, not {run!r}; name another folder")
    if strange := sorted(inside - ours - {MARK}):
        raise UserError(f"{folder}: holds {strange[0]}, which publish did not write; name another folder")


@contextmanager
def staged(folder: Path, run: str) -> Iterator[Path]:
    """Gives a folder to write into. At the end it replaces `folder`; after an error it is removed."""
    folder = Path(os.path.abspath(folder))
    stage = _sibling(folder, UNFINISHED)
    try:
        _clean_up(folder)
        stage.mkdir(parents=True)
        yield stage
        mark = {"run": run, "files": sorted(_files(stage))}
        (stage / MARK).write_text(json.dumps(mark, indent=1) + "\n", encoding="utf-8")
        sync_files(stage)
        _replace(stage, folder, run)
    except OSError as e:
        raise UserError(f"{folder}: cannot write: {e.strerror or e}") from e
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _files(folder: Path) -> set[str]:
    """The relative paths of all files and links below a folder."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}


def _mark(folder: Path) -> tuple[str | None, set[str]]:
    """The run of a published folder and the files written then; (None, set()) for any other folder."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        return str(mark["run"]), set(mark["files"])
    except (OSError, ValueError, LookupError, TypeError):
        return None, set()


def _replace(stage: Path, folder: Path, run: str) -> None:
    """Moves the new folder to its place; the old folder is removed after that."""
    check_writable(folder, run)  # again: it may have changed meanwhile
    if not folder.exists():
        stage.rename(folder)
    elif _exchange(stage, folder):
        shutil.rmtree(stage)
    else:  # a kill between the two renames is repaired by the next publish
        old = _sibling(folder, OLD)
        folder.rename(old)
        stage.rename(folder)
        shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two folders in one step; returns False where the system or the disk cannot."""
    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE of <linux/fs.h>
    try:
        swap = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    return bool(swap(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0)


def _sibling(folder: Path, suffix: str) -> Path:
    """A path next to the folder, with the id of this process and the name of its machine."""
    return folder.with_name(f".{folder.name}.{os.getpid()}@{os.uname().nodename}{suffix}")


def _clean_up(folder: Path) -> None:
    """Removes what dead processes left next to the folder; moves the folder back if they had moved it."""
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
