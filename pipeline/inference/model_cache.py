"""Cache of models derived from others. Each is built once, by a subprocess, and appears only when complete.

Which models are derived, and from what: pipeline/inference/model_files.py.
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

from pipeline.engine.atomic_files import sync_files
from pipeline.engine.subprocess_guard import Child
from pipeline.errors import UserError

SPARE = 64 * 1024**2  # bytes left free for tokenizer, config and log


def folder(name: str, key: str) -> Path:
    """Returns the folder of a model. `name`: for people; `key`: everything that the model is built from."""
    try:
        cache = Path(os.environ.get("RETORT_CACHE") or "~/.cache/retort").expanduser()
    except RuntimeError:  # neither HOME nor a passwd entry
        raise UserError("this user has no home folder: set RETORT_CACHE to a folder for models") from None
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    return Path(os.path.abspath(cache)) / "models" / f"{name}-{digest}"


def check_room(what: str, needed: int, at: Path) -> None:
    """Raises UserError if the disk of `at` has fewer than `needed` bytes free."""
    has = free(at)
    if has < needed:
        raise UserError(
            f"{at}: no room to {what}: {needed / 1e9:.1f} GB needed, {has / 1e9:.1f} GB "
            "free; make room, or set RETORT_CACHE to a folder on another disk"
        )


def free(at: Path) -> int:
    """Returns the usable bytes on the disk of a folder that may not exist yet."""
    while not at.exists():
        at = at.parent
    return max(0, shutil.disk_usage(at).free - SPARE)


def build_once(target: Path, program: Sequence[str], doing: str, say: Callable[[str], None]) -> str:
    """Returns the target folder, built by `python -m pipeline.train.trainer.PROGRAM ... FOLDER` if missing.

    Concurrent processes wait for the first one. Raises UserError if the program fails.
    """
    if not target.exists():
        with _exclusive(target):
            if not target.exists():
                _build(target, program, doing, say)
    return str(target)


def _build(target: Path, program: Sequence[str], doing: str, say: Callable[[str], None]) -> None:
    """Builds into a temporary folder and renames it; the caller holds the lock."""
    for stale in target.parent.glob(f"{target.name}.part-*"):
        shutil.rmtree(stale)  # of a killed process: the lock excludes a live one
    part = target.with_name(f"{target.name}.part-{os.getpid()}")
    part.mkdir()
    log = target.with_name(target.name + ".log")
    say(f"{doing}, once (log: {log})")
    command = [sys.executable, "-P", "-m", f"pipeline.train.trainer.{program[0]}", *program[1:], str(part)]
    try:
        with Child(command, log) as child:
            if child.wait() != 0:
                raise UserError(f"{doing} failed: {child.log_tail(1)} (log: {log})")
        sync_files(part)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)  # gone already after a success


@contextmanager
def _exclusive(target: Path) -> Iterator[None]:
    """Holds a lock that the kernel releases however this process ends."""
    doing = "written"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = target.with_name(target.name + ".lock").open("w")
        doing = "locked"
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as e:
        problem = f"{target.parent}: cannot be {doing}: {e.strerror}"
        raise UserError(f"{problem}; set RETORT_CACHE to a folder that can") from None
    with lock:
        yield
