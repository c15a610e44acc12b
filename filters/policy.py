"""What counts as the same answer where mathematics alone does not say: one table of settings and defaults.

Each is a parameter of the filter `correct`, so that a recipe can set it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Boxes = Literal["join", "last"]


@dataclass(frozen=True)
class Policy:
    """Defaults are what a strict teacher would accept without asking back."""

    # Significant digits from which a rounded decimal stands for what it rounds: 0.33333 is 1/3, 0.33 is not.
    # 0: a decimal is its own value and nothing else.
    rounding_digits: int = 5
    # 10 % is 0.1. With True the sign may also be left out or added where the number is above 1: 10 % is 10.
    percent_sign_optional: bool = True
    # A unit that only one of the two states does not count: 18 is 18 dollars. Two stated units must agree.
    unit_optional: bool = True
    # The order of a bare list (1, 2) counts; that of a tuple always does, that of a set never.
    ordered_lists: bool = False
    # Boxes joined by "and", "or" or a comma are one list; else, and with "last", the last box is the answer.
    several_boxes: Boxes = "join"
    # Upper and lower case differ in words. In mathematics they always do.
    case_sensitive: bool = False


DEFAULT = Policy()
