"""What ends a command, or a unit of its work, and is no bug: shown as a short message without a traceback."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable

# What the system may have again by itself; all else it refuses is for the user to put right.
_PASSING = (
    errno.EAGAIN,
    errno.EBUSY,
    errno.EINTR,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOBUFS,
    errno.ENOLCK,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
)


class UserError(Exception):
    """Something the user can put right, in one line: what was wrong, where, what is right. Exit code 2."""


class Stopped(Exception):
    """The work cannot go on, through no mistake in the recipe. What was done is kept; exit code 3."""


class WorkItemFailed(Exception):
    """One unit of work cannot be done, others may be.

    `refused`: the cause is the unit itself, whenever it is tried; so it says little of the others.
    """

    refused = False


def of_system(error: OSError | MemoryError, where: str) -> UserError | Stopped:
    """What a refusal of the system ends a command with.

    `where` it came from is said when the error names no file.
    """
    if isinstance(error, MemoryError):
        return Stopped(f"{where}: not enough memory")
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else where
    why = os.strerror(error.errno) if error.errno else " ".join(str(error).split()) or type(error).__name__
    return Stopped(f"{name}: {why}") if error.errno in _PASSING else UserError(f"{name}: {why}")


def nearest(word: str, known: Iterable[str]) -> str:
    """How an error about an unknown word ends: with the known one that is nearest, or with all of them."""
    known = sorted(known)
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; known: {', '.join(known)}" if known else "; none is known"
