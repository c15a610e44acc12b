"""Are two formulas the same? Exactly where they are rational numbers, else by their values at points.

Floating point refutes, fast: values that differ by far more than rounding belong to different formulas. What
agrees is confirmed with mpmath, so that 10^12 and sqrt(10^24 + 1) are told apart. Variables take values at
fixed points, positive and negative; where only one of the two is real, or, at negative points, any is not,
the point says nothing. A probabilistic test of identity (Schwartz 1980, Zippel 1979). Analytic functions that
agree near 0 agree everywhere; others, such as |x| and max(x, -9), are also compared far from 0, beside the
numbers that they name, and at whole numbers.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from filters.formula.evaluate import Evaluation, Values, spread
from filters.formula.functions import FLOATS, digits
from filters.formula.lexer import INFINITY, Budget, TooLarge, Tree, Unreadable
from filters.formula.matrices import flat, shape
from filters.formula.parser import parts
from filters.formula.rational import exact

CLEAR = 1e-7  # relative difference below which floating point agrees
DOUBTFUL = 1e-3  # and above which it refutes
DIGITS = 100, 150  # with which numbers are computed that agree in floating point
CONFIRMED = 1e-135  # of the largest number met, what may be left of a difference in 150 digits
VANISHING = 1e-10  # how 50 digits more shrink a difference that is only rounding
POSITIVE, NEGATIVE = 8, 6  # points
ENOUGH = 3  # points that must agree
FAR_OPERATIONS = 200_000  # as those of a Budget, for the points far from 0
NUMBERS = 8  # that formulas name, beside which they are compared


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


_PIECES = frozenset(
    [
        "abs",
        "max",
        "min",
        "floor",
        "ceil",
        "sqrt",
        "conj",
        "ln",
        "log",
        "lg",
        "arcsin",
        "arccos",
        "arctan",
        "gcd",
        "lcm",
    ]
)
_STEPS = frozenset(("floor", "ceil", "gcd", "lcm"))
_SIZES = (10.0, 100.0, 1e3, 1e4, 1e6, 1e9)
_AT_STEPS = (1.0, 2.0, 3.0, -1.0, -4.0, 12.0, 0.5, 2.5, -1.5, 3 - 2.0**-20, -2 - 2.0**-20, 7 + 2.0**-20)


def piecewise(tree: Tree) -> bool:
    """Whether a formula may go on otherwise somewhere, though it agrees with another one near 0."""
    if not variables(tree):
        return False
    whole = tree[0] != "pow" or not variables(tree[1]) or (exact(tree[2], Budget()) or 0.5) % 1 == 0
    return not whole or (tree[0] == "fn" and tree[1] in _PIECES) or any(map(piecewise, parts(tree)))


def far_points(names: set[str], *trees: Tree) -> list[Values]:
    """Points of several sizes and signs, beside the numbers of the trees, and where steps are."""
    found: list[Values] = []
    for index, size in enumerate(_SIZES):
        for flip in (1, -1):
            signs = {name: flip * (-1 if index and spread(name, index) > 1 else 1) for name in names}
            found.append({name: signs[name] * size * (0.5 + spread(name, index * 4)) for name in names})
    told = sorted({n for tree in trees for n in _numbers(tree) if n not in (0, 1, 2) and n < 10**99})[
        :NUMBERS
    ]
    near = [sign * float(n) * (1 + by / 512) for n in told for by in (-1, 1) for sign in (1, -1)]
    if any(_has_steps(tree) for tree in trees):
        near += _AT_STEPS
    for name in sorted(names)[:2]:
        found += [{other: spread(other, 1) for other in names} | {name: value} for value in near]
    return found


def _numbers(tree: Tree) -> set[Fraction]:
    return {abs(tree[1])} if tree[0] == "num" else set[Fraction]().union(*map(_numbers, parts(tree)))


def _has_steps(tree: Tree) -> bool:
    return (tree[0] == "fn" and tree[1] in _STEPS) or any(map(_has_steps, parts(tree)))


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
    if agreed < ENOUGH:
        return None
    return _same_far(gold, given, names) if piecewise(gold) or piecewise(given) else True


def _same_far(gold: Tree, given: Tree, names: set[str]) -> bool | None:
    """Whether nothing is seen to differ where a formula of several pieces may go on otherwise than near 0."""
    budget = Budget(FAR_OPERATIONS)
    for values in far_points(names, gold, given):
        try:
            if _agree(gold, given, values, budget, strict=False) is False:
                return None if _undefined(gold) or _undefined(given) else False
        except TooLarge:
            continue
    return None if budget.spent else True


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
        found = [
            [(e := Evaluation(digits(n), values, budget), e.value(tree)) for tree in (gold, given)]
            for n in DIGITS
        ]
    except (ArithmeticError, ValueError):
        return None
    less, more = (max(abs(p - q) for p, q in zip(flat(x), flat(y), strict=True)) for (_, x), (_, y) in found)
    if more > VANISHING * less and more > CONFIRMED * max(e.largest for e, _ in found[1]):
        return False
    return None if any(e.lost for e, _ in found[1]) else True


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
