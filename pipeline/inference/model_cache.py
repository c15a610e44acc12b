"""The cache of models that were made of others: each made once, by a program, and there whole or not at all.

Leaves out what is made of what, and where that lies: pipeline/inference/model_files.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.engine.subprocess_guard import Child
from pipeline.errors import UserError

ROOM_TO_SPARE = 64 * 1024**2  # bytes: tokenizer, config, log


def folder(name: str, key: str) -> Path:
    """Where a model lives: named for people, keyed by all that it is made of."""
    try:
        cache = Path(os.environ.get("RETORT_CACHE") or "~/.cache/retort").expanduser()
    except RuntimeError:  # neither HOME nor an entry in the system's list of users
        raise UserError("this user has no home folder: set RETORT_CACHE to a folder for models") from None
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return Path(os.path.abspath(cache)) / "models" / f"{name}-{digest}"


def check_room(what: str, needed: int, at: Path) -> None:
    """Raise UserError when so many bytes do not fit beside what is on the disk already."""
    has = free(at)
    if has < needed:
        raise UserError(
            f"{at}: no room to {what}: {needed / 1e9:.1f} GB needed, {has / 1e9:.1f} GB "
            "free; make room, or set RETORT_CACHE to a folder on another disk"
        )


def free(at: Path) -> int:
    """Bytes that may be taken on the disk where the folder is or will be."""
    while not at.exists():
        at = at.parent
    return max(0, shutil.disk_usage(at).free - ROOM_TO_SPARE)


def made(target: Path, program: Sequence[str], doing: str, say: Callable[[str], None]) -> str:
    """The target folder; made by `python -m pipeline.train.trainer.PROGRAM ... FOLDER` where it is missing.

    Two processes that want the same take turns, and the second finds it done. Raises UserError.
    """
    if not target.exists():
        with _exclusive(target):
            if not target.exists():
                _make(target, program, doing, say)
    return str(target)


def _make(target: Path, program: Sequence[str], doing: str, say: Callable[[str], None]) -> None:
    """Have it written into a folder beside the target, then rename; it has to be our turn."""
    for stale in target.parent.glob(f"{target.name}.part-*"):
        shutil.rmtree(stale)  # of a run that was killed: nobody else can be writing now
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    part.mkdir()
    log = target.with_name(target.name + ".log")
    say(f"{doing}, once (log: {log})")
    command = [sys.executable, "-P", "-m", f"pipeline.train.trainer.{program[0]}", *program[1:], str(part)]
    try:
        with Child(command, log) as child:
            if child.wait() != 0:
                reason = child.log_tail(1)
                raise UserError(f"{doing} failed: {reason} (log: {log})")
        _sync(part)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # gone already when all went well


@contextmanager
def _exclusive(target: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go of the lock when we end, however we end."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(target.name + ".lock").open("w")
    except OSError as e:
        raise UserError(
            f"{target.parent}: cannot be written: {e.strerror}; set RETORT_CACHE to a folder that can"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as e:
            raise UserError(
                f"{target.parent}: cannot be locked: {e.strerror}; set RETORT_CACHE to a folder that can"
            ) from None
        yield


def _sync(folder: Path) -> None:
    """Have the files on the disk before the rename says that they are there."""
    for path in folder.iterdir():
        with path.open("rb") as f:
            os.fsync(f.fileno())
