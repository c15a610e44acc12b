"""What ends a command, or a unit of its work, and is no bug: shown as a short message without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right, in one line: what was wrong, where, what is right. Exit code 2."""


class Stopped(Exception):
    """The work cannot go on, through no mistake in the recipe. What was done is kept; exit code 3."""


class UnitFailed(Exception):
    """One unit of work cannot be done, others may be.

    `refused`: the cause is the unit itself, whenever it is tried; so it says little of the others.
    """

    refused = False


def nearest(word: str, known: Iterable[str]) -> str:
    """How an error about an unknown word ends: with the known one that is nearest, or with all of them."""
    known = sorted(known)
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; known: {', '.join(known)}" if known else "; none is known"
