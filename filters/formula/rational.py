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
        number: Fraction = arguments[0]
        return number
    if op in ("var", "apply", "matrix", "sum", "prod") or arguments[0] == "det":
        return None
    values = [exact_value(part, budget) for part in children(tree)]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    try:
        function = _FUNCTIONS.get(arguments[0]) if op == "fn" else _OPERATIONS[op]
        value = function(*known) if function else None
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
    if degree == 2:
        found = math.isqrt(value)
    else:
        found = round(value ** (1 / degree)) if value.bit_length() < 1000 else 0
    return found if found**degree == value else None


def _exact_factorial(n: Fraction) -> Fraction | None:
    if n.denominator != 1 or n < 0:
        return None
    if n > 2500:
        raise TooLarge
    return Fraction(math.factorial(int(n)))


def _exact_binomial(n: Fraction, k: Fraction) -> Fraction | None:
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n:
        return None
    if n > 1000:
        raise TooLarge
    return Fraction(math.comb(int(n), int(k)))


def _for_integers(function: Callable[..., int]) -> Callable[..., Fraction | None]:
    def of_fractions(*values: Fraction) -> Fraction | None:
        return Fraction(function(*map(int, values))) if all(v.denominator == 1 for v in values) else None

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
    "factorial": _exact_factorial,
    "binom": _exact_binomial,
}
