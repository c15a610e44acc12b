"""Decimals that a program printed from binary floating point: 0.30000000000000004 for 0.3.

A double has 15 decimal digits for certain and is printed with up to 17, a single is printed with up to 9
(Goldberg 1991, What every computer scientist should know about floating-point arithmetic), or with a double's
17 where it became one: 0.10000000149011612 is 0.1.
"""

from __future__ import annotations

import struct
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filters.grade.numbers import Number

CERTAIN, PRINTED = 15, 17  # digits of a double
SINGLE = 9  # digits that tell any two singles apart
WHOLE = 2**53  # up to here every whole number is a double
_CERTAIN = Context(prec=CERTAIN, rounding=ROUND_HALF_EVEN)


def same_float(printed: Number, value: Fraction) -> bool | None:
    """Whether a decimal is how a program prints the value as a float.

    None where both are the same double, and so large that others are as well.
    """
    if printed.decimals is None:
        return False
    if abs(printed.value) >= WHOLE:
        return None if _double(printed.value) == _double(value) is not None else False
    digits = len(str(abs(int(printed.value * 10**printed.decimals))).strip("0"))
    if not CERTAIN <= digits <= PRINTED:
        return False
    if _rounded(printed.value) == value:
        return True
    if (value * 10**PRINTED).denominator == 1:
        return _shortest_single(printed.value) == value
    return _single(float(value)) == float(printed.value)  # 0.3333333432674408 is how 1/3 is printed


def _rounded(value: Fraction) -> Fraction:
    """To the digits that a double has for certain."""
    return Fraction(_CERTAIN.divide(Decimal(value.numerator), Decimal(value.denominator)))


def _double(value: Fraction) -> float | None:
    try:
        return float(value)
    except OverflowError:
        return None


def _shortest_single(value: Fraction) -> Fraction | None:
    """The shortest decimal of the single that a value is; None where it is none."""
    single = _single(float(value))
    if single is None or single != float(value):
        return None
    shortest = next(text for n in range(1, SINGLE + 1) if _single(float(text := f"{single:.{n}g}")) == single)
    return Fraction(shortest)


def _single(value: float) -> float | None:
    try:
        found: float = struct.unpack("f", struct.pack("f", value))[0]
    except OverflowError:
        return None
    return found
