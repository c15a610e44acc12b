"""Recognizes decimals that a program printed from binary floating point: 0.30000000000000004 for 0.3.

A double has 15 certain decimal digits and is printed with up to 17. A single is printed with up to 9, or with
17 after conversion to a double: 0.10000000149011612 is 0.1. See Goldberg 1991, What every computer scientist
should know about floating-point arithmetic.
"""

from __future__ import annotations

import ctypes
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filters.grade.numbers import Number

CERTAIN, PRINTED = 15, 17  # digits of a double
SINGLE_DIGITS = 9  # distinguish any two singles
MAX_EXACT = 2**53  # up to here every whole number is a double
_CERTAIN = Context(prec=CERTAIN, rounding=ROUND_HALF_EVEN)


def is_printed_float(printed: Number, value: Fraction) -> bool | None:
    """Whether a decimal is what a program prints for the value as a float.

    None if both are the same double, but so large that other whole numbers are too.
    """
    if printed.decimals is None:
        return False
    if abs(printed.value) >= MAX_EXACT:
        try:
            return None if float(printed.value) == float(value) else False
        except OverflowError:
            return False
    digits = len(str(abs(int(printed.value * 10**printed.decimals))).strip("0"))
    if not CERTAIN <= digits <= PRINTED:
        return False
    if _CERTAIN.divide(Decimal(printed.value.numerator), Decimal(printed.value.denominator)) == value:
        return True
    if (value * 10**PRINTED).denominator == 1:
        return _shortest_single(printed.value) == value
    return _single(float(value)) == float(printed.value)  # 0.3333333432674408 is 1/3


def _shortest_single(value: Fraction) -> Fraction | None:
    """Returns the shortest decimal of a value that is a single, None if it is not one."""
    single = _single(float(value))
    if single != float(value):
        return None
    decimals = (f"{single:.{n}g}" for n in range(1, SINGLE_DIGITS + 1))
    return Fraction(next(decimal for decimal in decimals if _single(float(decimal)) == single))


def _single(value: float) -> float:
    return ctypes.c_float(value).value
