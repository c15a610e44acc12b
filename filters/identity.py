"""Are two formulas the same? Exactly where they are rational numbers, else by their values at points.

Floating point refutes, fast: values that differ by far more than rounding belong to different formulas. What
agrees is confirmed with mpmath, so that 10^12 and sqrt(10^24 + 1) are told apart. Variables take values at
fixed points, positive and negative; where only one of the two is real, or, at negative points, any is not,
the point says nothing. A probabilistic test of identity (Schwartz 1980, Zippel 1979).
"""

from __future__ import annotations

import math
from typing import Any

from filters.evaluate import Evaluation, Values, spread
from filters.exact import exact
from filters.formula import parts
from filters.functions import FLOATS, digits
from filters.matrices import flat, shape
from filters.tokens import INFINITY, Budget, Tree, Unreadable

CLEAR = 1e-7  # relative difference below which floating point agrees
DOUBTFUL = 1e-3  # and above which it refutes
CONFIRMED = 1e-35  # the same, of numbers with 50 digits
VANISHING = 1e-10  # how 25 digits more shrink a difference that is only rounding
POSITIVE, NEGATIVE = 8, 6  # points
ENOUGH = 3  # points that must agree


def same(gold: Tree, given: Tree, budget: Budget) -> bool | None:
    """Whether two trees are the same function; None where that cannot be seen. Raises TooLarge."""
    if canonical(gold) == canonical(given):
        return True
    if _infinite(gold) or _infinite(given):
        return False
    a, b = exact(gold, budget), exact(given, budget)
    if a is not None and b is not None:
        return a == b
    try:
        return _same_at_points(gold, given, budget)
    except Unreadable:
        return None


def _infinite(tree: Tree) -> bool:
    return INFINITY in (tree, tree[-1])


def canonical(tree: Tree) -> str:
    """The tree as text, in one order where order does not matter."""
    parts = [canonical(part) if isinstance(part, tuple) else str(part) for part in tree[1:]]
    if tree[0] in ("add", "mul"):
        parts.sort()
    return f"{tree[0]}({','.join(parts)})"


def variables(tree: Tree) -> set[str]:
    """The names that take values; e and i are numbers."""
    if tree[0] == "var":
        return set() if tree[1] in ("e", "i") else {tree[1]}
    if tree[0] in ("sum", "prod"):
        inner = variables(tree[4]) - variables(tree[1])
        return inner | variables(tree[2]) | variables(tree[3])
    return set().union(*(variables(part) for part in parts(tree)))


def replaced(tree: Tree, name: str, other: Tree) -> Tree:
    """The tree with another in the place of a variable."""
    if tree == ("var", name):
        return other
    return tuple(replaced(part, name, other) if isinstance(part, tuple) else part for part in tree)


def points(names: set[str], count: int, sign: int = 1) -> list[Values]:
    """The same values for the same names on every run."""
    return [{name: sign * spread(name, index) for name in names} for index in range(count)]


def _same_at_points(gold: Tree, given: Tree, budget: Budget) -> bool | None:
    names = variables(gold) | variables(given)
    if names <= {"I"}:  # a capital I that is alone is SymPy's imaginary unit
        return _agree(gold, given, {}, budget, strict=True)
    agreed = 0
    for sign, count in ((1, POSITIVE), (-1, NEGATIVE)):
        for values in points(names, count, sign):
            answer = _agree(gold, given, values, budget, strict=sign > 0, confirm=agreed < 2)
            if answer is False:
                return None if _undefined(gold) or _undefined(given) else False
            agreed += answer is True
    return True if agreed >= ENOUGH else None


def _agree(
    gold: Tree, given: Tree, values: Values, budget: Budget, *, strict: bool, confirm: bool = True
) -> bool | None:
    """Whether both have the same value here; None where one has none. `strict`: complex values count."""
    evaluations = Evaluation(FLOATS, values, budget), Evaluation(FLOATS, values, budget)
    try:
        a, b = (e.value(tree) for e, tree in zip(evaluations, (gold, given), strict=True))
    except (ArithmeticError, ValueError):
        return None
    if shape(a) != shape(b):
        return False
    real = _real(a), _real(b)
    if not all(real) and (not strict or (values and any(real))):
        return None
    apart = _apart(a, b)
    if apart > DOUBTFUL and not any(map(_noisy, evaluations, (a, b))):
        return False
    if apart <= CLEAR and not confirm:
        return True
    return _agree_in_digits(gold, given, values, budget)


def _agree_in_digits(gold: Tree, given: Tree, values: Values, budget: Budget) -> bool | None:
    """The same with many digits; values near zero agree when their difference shrinks with more of them."""
    try:
        a, b = (Evaluation(digits(50), values, budget).value(tree) for tree in (gold, given))
        if _apart(a, b) < CONFIRMED:
            return True
        c, d = (Evaluation(digits(75), values, budget).value(tree) for tree in (gold, given))
    except (ArithmeticError, ValueError):
        return None
    differences = [
        max(abs(p - q) for p, q in zip(flat(x), flat(y), strict=True)) for x, y in ((a, b), (c, d))
    ]
    return bool(differences[1] <= VANISHING * differences[0])


def _noisy(evaluation: Evaluation, value: Any) -> bool:
    """Whether floating point met numbers so large that their difference, or their sine, is noise."""
    return evaluation.largest > 1e6 * max(map(abs, flat(value))) or evaluation.largest > 1e9


def _apart(a: Any, b: Any) -> Any:
    """The relative difference, of matrices the largest; infinite where one is undefined."""
    largest: Any = 0
    for p, q in zip(flat(a), flat(b), strict=True):
        difference = abs(p - q)
        if difference != difference:
            return math.inf
        if difference:
            largest = max(largest, difference / max(abs(p), abs(q)))
    return largest


def _real(value: Any) -> bool:
    return all(abs(x.imag) <= 1e-9 * abs(x) for x in flat(value))


def _undefined(tree: Tree) -> bool:
    return tree[0] == "apply" or any(map(_undefined, parts(tree)))
