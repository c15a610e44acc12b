"""Evaluates formulas that are rational numbers exactly, in bounded arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from filters.formula.tree import Budget, TooLarge, Tree, children

MAX_BITS = 30_000  # of a number


def exact_value(tree: Tree, budget: Budget) -> Fraction | None:
    """Returns the value of a rational formula, None for any other formula. Raises TooLarge."""
    op, *arguments = tree
    if op == "num":
        return arguments[0]
    if op in ("var", "apply", "matrix", "sum", "prod") or arguments[0] == "det":
        return None
    values = [exact_value(part, budget) for part in children(tree)]
    function = _FUNCTIONS.get(arguments[0]) if op == "fn" else _OPERATIONS[op]
    if None in values or not values or not function:
        return None
    try:
        value = function(*values)
    except ZeroDivisionError:
        return None
    if value is not None:
        bits = value.numerator.bit_length() + value.denominator.bit_length()
        if bits > MAX_BITS:
            raise TooLarge
        budget.spend(1 + bits // 32)
    return value


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        if not (abs(exponent) < 10 and base > 0):
            return None
        return _exact_root(base**exponent.numerator, exponent.denominator)
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if base not in (0, 1, -1) and abs(exponent.numerator) * size > MAX_BITS:
        raise TooLarge
    return base**exponent.numerator


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """Returns the real root if it is rational."""
    if not 1 < degree < 10 or (value < 0 and degree % 2 == 0):
        return None
    sign = -1 if value < 0 else 1
    above = _integer_root(abs(value.numerator), degree)
    below = _integer_root(value.denominator, degree)
    return None if above is None or below is None else sign * Fraction(above, below)


def _integer_root(value: int, degree: int) -> int | None:
    large = value.bit_length() >= 1000
    found = math.isqrt(value) if degree == 2 else 0 if large else round(value ** (1 / degree))
    return found if found**degree == value else None


def _for_integers(function: Callable[..., int], largest: int = 0) -> Callable[..., Fraction | None]:
    """Applies a function to whole numbers. `largest`: of the first one; no other is larger or below 0."""

    def of_fractions(*values: Fraction) -> Fraction | None:
        if any(v.denominator != 1 for v in values) or (largest and not 0 <= min(values) == values[-1]):
            return None
        if largest and values[0] > largest:
            raise TooLarge
        return Fraction(function(*map(int, values)))

    return of_fractions


_OPERATIONS: dict[str, Callable[..., Fraction | None]] = {
    "add": lambda *values: sum(values, start=Fraction(0)),
    "mul": lambda *values: math.prod(values, start=Fraction(1)),
    "div": lambda a, b: a / b,
    "inv": lambda a: 1 / a,
    "neg": lambda a: -a,
    "pow": _exact_power,
}
_FUNCTIONS: dict[str, Callable[..., Fraction | None]] = {
    "sqrt": lambda value, degree: _exact_root(value, int(degree)) if degree.denominator == 1 else None,
    "abs": abs,
    "floor": lambda value: Fraction(math.floor(value)),
    "ceil": lambda value: Fraction(math.ceil(value)),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "gcd": _for_integers(math.gcd),
    "lcm": _for_integers(math.lcm),
    "factorial": _for_integers(math.factorial, 2500),
    "binom": _for_integers(math.comb, 1000),
}
