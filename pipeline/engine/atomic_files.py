"""Files that are there whole or not at all, on any file system, whenever a process dies or a disk fills up.

A file is written beside its place, as .NAME.PID.tmp, synced, and then renamed or linked. What an error leaves
of it goes at once; what a killed process left goes with the next one that writes there.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_LEFTOVER = re.compile(r"\.(.+)\.(\d+)\.tmp")
_STALE = 60  # seconds without a write, of a small file that is being written
_NO_LINKS = (
    errno.EPERM,
    errno.EACCES,
    errno.EMLINK,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.EXDEV,
    errno.EINVAL,
)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a small file so that readers see the old content or the new, never a part."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        _remove_stale(left, path.name)
    with _beside(path) as temporary:
        temporary.write_bytes(data)
        _sync(temporary)
        os.replace(temporary, path)
    _sync_folder(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A temporary file to write to, which becomes `path` at the end; one that is there by then stays."""
    with _beside(path) as temporary:
        yield temporary
        _sync(temporary)
        _link(temporary, path)
    _sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Add to a file, all or nothing of it; on disk when this returns, a new file's name too."""
    new = not path.exists()
    with _named(path), path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise
    if new:
        _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that died; whoever calls this is alone in the folder."""
    for left in folder.glob(".*.tmp"):
        if _LEFTOVER.fullmatch(left.name):
            left.unlink(missing_ok=True)


def lock(file: IO[str], kind: int, tries: int) -> bool | None:
    """Take a lock (fcntl.LOCK_EX or LOCK_SH), or not; None where the file system knows no locks.

    Several tries see past a reader that holds it just to ask whether it is held.
    """
    for _ in range(tries):
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.1)
        except OSError as e:
            if e.errno in _NO_LOCKS:
                return None
            raise
    return False


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _named(path):
        try:
            yield temporary
        finally:
            with suppress(OSError):  # gone already when all went well
                temporary.unlink()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Have an error of the system name this file: that of a write names none."""
    try:
        yield
    except OSError as e:
        e.filename = str(path)
        raise


def _link(temporary: Path, path: Path) -> None:
    """Give the file its name unless another file has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError as e:
        if e.errno not in _NO_LINKS:
            raise
        if not path.exists():  # no links here, as on FAT: look, then rename
            os.replace(temporary, path)


def _remove_stale(left: Path, name: str) -> None:
    """Remove a leftover of this file, unless somebody may be writing it, from another machine perhaps."""
    match = _LEFTOVER.fullmatch(left.name)
    with suppress(OSError):
        if match and match[1] == name and time.time() - left.stat().st_mtime > _STALE and not alive(match[2]):
            left.unlink()


def alive(pid: str) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Have the names of a folder on disk, where its file system can say so; CIFS and others cannot."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise
    finally:
        os.close(descriptor)
