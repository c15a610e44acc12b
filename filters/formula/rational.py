"""The exact value of a formula that is a rational number, in bounded arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from filters.formula.lexer import Budget, TooLarge, Tree
from filters.formula.parser import parts

BITS = 30_000  # of a number


def exact(tree: Tree, budget: Budget) -> Fraction | None:
    """The value of a rational number's tree, None for any other. Raises TooLarge."""
    op, *arguments = tree
    if op == "num":
        return arguments[0]
    if op in ("var", "apply", "matrix", "sum", "prod") or arguments[0] == "det":
        return None
    values = [exact(part, budget) for part in parts(tree)]
    known = [value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    try:
        value = _EXACT[op](*known) if op != "fn" else _exact_function(arguments[0], known)
    except ZeroDivisionError:
        return None
    if value is not None:
        bits = value.numerator.bit_length() + value.denominator.bit_length()
        if bits > BITS:
            raise TooLarge
        budget.spend(1 + bits // 32)
    return value


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return (
            _exact_root(base**exponent.numerator, exponent.denominator)
            if abs(exponent) < 10 and base > 0
            else None
        )
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if base not in (0, 1, -1) and abs(exponent.numerator) * size > BITS:
        raise TooLarge
    return base**exponent.numerator


def _exact_root(value: Fraction, degree: int) -> Fraction | None:
    """The real root where it is rational."""
    if not 1 < degree < 10 or (value < 0 and degree % 2 == 0):
        return None
    sign = -1 if value < 0 else 1
    parts = [_whole_root(n, degree) for n in (abs(value.numerator), value.denominator)]
    return None if None in parts else sign * Fraction(*parts)  # type: ignore[arg-type]


def _whole_root(value: int, degree: int) -> int | None:
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


def _exact_function(name: str, values: list[Fraction]) -> Fraction | None:
    function = _EXACT_FUNCTIONS.get(name)
    return None if function is None else function(*values)


def _whole(function: Callable[..., int]) -> Callable[..., Fraction | None]:
    def of(*values: Fraction) -> Fraction | None:
        return Fraction(function(*map(int, values))) if all(v.denominator == 1 for v in values) else None

    return of


_EXACT: dict[str, Callable[..., Fraction | None]] = {
    "add": lambda *values: sum(values, start=Fraction(0)),
    "mul": lambda *values: math.prod(values, start=Fraction(1)),
    "div": lambda a, b: a / b,
    "inv": lambda a: 1 / a,
    "neg": lambda a: -a,
    "pow": _exact_power,
}
_EXACT_FUNCTIONS: dict[str, Callable[..., Fraction | None]] = {
    "sqrt": lambda value, degree: _exact_root(value, int(degree)) if degree.denominator == 1 else None,
    "abs": abs,
    "floor": lambda value: Fraction(math.floor(value)),
    "ceil": lambda value: Fraction(math.ceil(value)),
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "gcd": _whole(math.gcd),
    "lcm": _whole(math.lcm),
    "factorial": _exact_factorial,
    "binom": _exact_binomial,
}
