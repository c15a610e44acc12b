"""Exceptions that end a command or a work item with a short message in place of a traceback."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from filters.errors import Stopped as Stopped
from filters.errors import UserError as UserError

# Errors of the operating system that may pass without the user; the others are the user's to correct.
_TRANSIENT = (
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


class WorkItemFailed(Exception):
    """A work item failed; others may succeed.

    `refused`: the item itself is the cause, so its failure says little about the others.
    """

    refused = False


def of_system(error: OSError | MemoryError, where: str) -> UserError | Stopped:
    """Returns the exception that ends a command after an error of the operating system.

    `where` names its origin if the error names no file.
    """
    if isinstance(error, MemoryError):
        return Stopped(f"{where}: not enough memory")
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else where
    why = os.strerror(error.errno) if error.errno else one_line(error)
    return Stopped(f"{name}: {why}") if error.errno in _TRANSIENT else UserError(f"{name}: {why}")


def one_line(error: BaseException, most: int = 300) -> str:
    """Returns an error's text on one line of at most `most` characters; its type's name if it has no text."""
    return (" ".join(str(error).split()) or type(error).__name__)[:most]


@contextmanager
def user_error(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turns a library's errors of these kinds into a UserError of one line that begins with `what`."""
    try:
        yield
    except kinds as e:
        raise UserError(f"{what}: {one_line(e)}") from e


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns the end of an error about an unknown word: the nearest known word, or all of them."""
    known = sorted(known)
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; known: {', '.join(known)}" if known else "; none is known"
