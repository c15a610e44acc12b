"""Crash-safe file writes: a file is complete or absent, whenever a process dies or the disk fills up.

Data goes to a temporary file .NAME.OWNER.tmp in the same folder, is synced, and is then renamed or linked
into place. After an error the temporary file is removed at once; after a kill, by the next writer.
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

from pipeline.engine.owner import this_owner
from pipeline.errors import Stopped

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]+\.tmp")
_STALE_AFTER = 3600  # seconds without a write; before that its writer, on any machine, may be alive
_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_NO_LINKS = (*_UNSUPPORTED, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EXDEV)
_NO_LOCKS = (*_UNSUPPORTED, errno.ENOLCK, errno.EBADF)  # EBADF: NFS, for a file opened only to read


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a small file; a reader sees either the old content or the new."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        _remove_stale(leftover, path.name)
    with _temporary(path) as temporary:
        temporary.write_bytes(data)
        _sync(temporary)
        os.replace(temporary, path)
    _sync_folder(path.parent)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary file that becomes `path` at the end, unless `path` exists by then."""
    with _temporary(path) as temporary:
        yield temporary
        _sync(temporary)
        _link(temporary, path)
    _sync_folder(path.parent)


def append(path: Path, data: bytes) -> None:
    """Appends all of the data or none of it, and returns once the data and the file's name are on disk."""
    new = not path.exists()
    with _named(path), path.open("ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise
    if new:
        _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Removes all temporary files. The caller must hold the folder's lock."""
    for leftover in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(leftover.name):
            leftover.unlink(missing_ok=True)


def lock(file: IO[str], kind: int, attempts: int) -> bool | None:
    """Tries to take a lock (fcntl.LOCK_EX or LOCK_SH). Returns None where the file system has no locks.

    Several attempts are needed because a reader that asks whether the lock is held takes it for a moment.
    """
    for _ in range(attempts):
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


def sync_files(folder: Path) -> None:
    """Flushes all files below a folder to disk, before it is renamed to its final name or marked."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def alive(pid: str) -> bool:
    """Whether a process with this id runs on this machine."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    temporary = path.with_name(f".{path.name}.{this_owner()}.tmp")
    with _named(path):
        try:
            yield temporary
        except FileNotFoundError:
            if temporary.exists() or not path.parent.exists():
                raise
            raise Stopped(f"{path}: another process took over while this one was paused") from None
        finally:
            with suppress(OSError):  # already renamed when all went well
                temporary.unlink()


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Adds the file's name to a system error, because write() and fsync() errors carry none."""
    try:
        yield
    except OSError as e:
        e.filename = str(path)
        raise


def _link(temporary: Path, path: Path) -> None:
    """Gives the temporary file its final name unless another file has that name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError as e:
        if e.errno not in _NO_LINKS:
            raise
        if not path.exists():  # file systems without hard links, such as FAT
            os.replace(temporary, path)


def _remove_stale(leftover: Path, name: str) -> None:
    match = _TEMPORARY.fullmatch(leftover.name)
    with suppress(OSError):
        stale = time.time() - leftover.stat().st_mtime > _STALE_AFTER
        if match and match[1] == name and stale:
            leftover.unlink()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Syncs the folder's entries, where the file system supports it (CIFS and others do not)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as e:
        if e.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise
    finally:
        os.close(descriptor)
