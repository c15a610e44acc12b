"""The outcome of comparing a reference with an answer."""

from __future__ import annotations

from typing import NamedTuple

MAX_CHARS = 2000  # of an answer that is compared by value


class Decision(NamedTuple):
    equal: bool | None  # None: undecided
    layer: str  # the comparison that decided
    reason: str = ""  # why it is undecided, as a short code


class Undecided(Exception):
    """Raised inside a comparison that cannot be decided. Its text is the reason code."""
