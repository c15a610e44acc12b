"""Settings that decide when two answers count as equal, where mathematics alone does not.

Each one is also a parameter of the filter `correct`, so a recipe can set it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Boxes = Literal["join", "last"]


@dataclass(frozen=True)
class Policy:
    """Grading settings. The defaults follow a strict teacher."""

    rounding_digits: int = 5
    """Significant digits a decimal needs to stand for the value it rounds: 0.33333 is 1/3, 0.33 is not.
    0 turns rounding off."""
    percent_sign_optional: bool = True
    """10 % is always 0.1. True also accepts 10 for 10 %, for numbers above 1."""
    unit_optional: bool = True
    """Accepts 18 for 18 dollars. Two stated units must agree in any case."""
    ordered_lists: bool = False
    """The order of a bare list (1, 2) counts. The order of a tuple always counts, that of a set never."""
    several_boxes: Boxes = "join"
    """"join": boxes joined by "and", "or" or a comma are one list. "last": only the last box counts."""
    case_sensitive: bool = False
    """Case counts in words. In mathematics it always counts."""


DEFAULT = Policy()
