"""Decides whether two formulas are equal: exactly if both are rational, else by their values at points.

A probabilistic identity test (Schwartz 1980, Zippel 1979). Floating point refutes quickly: values that differ
by far more than rounding belong to different formulas. Agreement is confirmed with mpmath, which tells 10^12
from sqrt(10^24 + 1). Variables take fixed values, positive and negative. A point says nothing if only one
formula is real there, or, at negative values, if any is not. Analytic functions that agree near 0 agree
everywhere. Others, such as |x| and max(x, -9), are also compared far from 0, near the numbers that they
contain, and at whole numbers.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from filters.formula.evaluate import Evaluation, Values, entries, sample_value, shape
from filters.formula.functions import FLOATS, with_digits
from filters.formula.rational import exact_value
from filters.formula.tree import (
    INFINITY,
    Budget,
    TooLarge,
    Tree,
    UnsupportedFormula,
    canonical_form,
    children,
    variables,
)

AGREES = 1e-7  # relative difference below which floating-point values agree
DIFFERS = 1e-3  # relative difference above which they differ
DIGITS = 100, 150  # for the confirmation of values that agree in floating point
MAX_RESIDUE = 1e-135  # of the largest intermediate value, left of a difference with 150 digits
MAX_SHRINKAGE = 1e-10  # 50 more digits shrink a mere rounding difference to at most this
POSITIVE, NEGATIVE = 8, 6  # points
MIN_AGREEING = 3  # points
DISTANT_OPERATIONS = 200_000  # the budget for points far from 0
MAX_CONSTANTS = 8  # of the formulas, near which they are compared


def equivalent(reference: Tree, answer: Tree, budget: Budget) -> bool | None:
    """Whether two trees are the same function, None if undecided. Raises TooLarge."""
    if canonical_form(reference) == canonical_form(answer):
        return True
    if _infinite(reference) or _infinite(answer):
        return False
    a, b = exact_value(reference, budget), exact_value(answer, budget)
    if a is not None and b is not None:
        return a == b
    try:
        return _equal_at_points(reference, answer, budget)
    except UnsupportedFormula:
        return None


def _infinite(tree: Tree) -> bool:
    return INFINITY in (tree, tree[-1])


def sample_points(names: set[str], count: int, sign: int = 1) -> list[Values]:
    """Returns points with fixed values, the same for the same names on every run."""
    return [{name: sign * sample_value(name, index) for name in names} for index in range(count)]


_PIECEWISE = "abs max min floor ceil sqrt conj ln log lg arcsin arccos arctan gcd lcm"
_PIECES = frozenset(_PIECEWISE.split())
_STEPS = frozenset(("floor", "ceil", "gcd", "lcm"))
_SIZES = (10.0, 100.0, 1e3, 1e4, 1e6, 1e9)
_AT_STEPS = (1.0, 2.0, 3.0, -1.0, -4.0, 12.0, 0.5, 2.5, -1.5, 3 - 2.0**-20, -2 - 2.0**-20, 7 + 2.0**-20)


def is_piecewise(tree: Tree) -> bool:
    """Whether a formula that agrees with another one near 0 may differ from it elsewhere."""
    if not variables(tree):
        return False
    if tree[0] == "pow" and variables(tree[1]) and (exact_value(tree[2], Budget()) or 0.5) % 1 != 0:
        return True  # a root
    return (tree[0] == "fn" and tree[1] in _PIECES) or any(map(is_piecewise, children(tree)))


def distant_points(names: set[str], *trees: Tree) -> list[Values]:
    """Returns points of several sizes and signs, near the numbers in the trees, and at whole numbers."""
    found: list[Values] = []
    for index, size in enumerate(_SIZES):
        for flip in (1, -1):
            signs = {name: flip * (-1 if index and sample_value(name, index) > 1 else 1) for name in names}
            found.append({name: signs[name] * size * (0.5 + sample_value(name, index * 4)) for name in names})
    constants = sorted({n for tree in trees for n in _numbers(tree) if n not in (0, 1, 2) and n < 10**99})
    kept = constants[:MAX_CONSTANTS]
    near = [sign * float(n) * (1 + by / 512) for n in kept for by in (-1, 1) for sign in (1, -1)]
    if any(_has_steps(tree) for tree in trees):
        near += _AT_STEPS
    for name in sorted(names)[:2]:
        found += [{other: sample_value(other, 1) for other in names} | {name: value} for value in near]
    return found


def _numbers(tree: Tree) -> set[Fraction]:
    return {abs(tree[1])} if tree[0] == "num" else set[Fraction]().union(*map(_numbers, children(tree)))


def _has_steps(tree: Tree) -> bool:
    return (tree[0] == "fn" and tree[1] in _STEPS) or any(map(_has_steps, children(tree)))


def _equal_at_points(reference: Tree, answer: Tree, budget: Budget) -> bool | None:
    names = variables(reference) | variables(answer)
    if names <= {"I"}:  # without other variables, I is SymPy's imaginary unit
        return _agree(reference, answer, {}, budget, strict=True)
    agreed = 0
    for sign, count in ((1, POSITIVE), (-1, NEGATIVE)):
        for values in sample_points(names, count, sign):
            agree = _agree(reference, answer, values, budget, strict=sign > 0, confirm=agreed < 2)
            if agree is False:
                return None if _undefined(reference) or _undefined(answer) else False
            agreed += agree is True
    if agreed < MIN_AGREEING:
        return None
    if is_piecewise(reference) or is_piecewise(answer):
        return _equal_far_out(reference, answer, names)
    return True


def _equal_far_out(reference: Tree, answer: Tree, names: set[str]) -> bool | None:
    """Whether no point far from 0 tells the formulas apart, None if undecided."""
    budget = Budget(DISTANT_OPERATIONS)
    for values in distant_points(names, reference, answer):
        try:
            if _agree(reference, answer, values, budget, strict=False) is False:
                return None if _undefined(reference) or _undefined(answer) else False
        except TooLarge:
            continue
    return None if budget.exhausted else True


def _agree(
    reference: Tree, answer: Tree, values: Values, budget: Budget, *, strict: bool, confirm: bool = True
) -> bool | None:
    """Whether both formulas have the same value at a point, None if one has none.

    `strict`: complex values count. `confirm`: agreement in floating point is confirmed with many digits.
    """
    evaluations = Evaluation(FLOATS, values, budget), Evaluation(FLOATS, values, budget)
    try:
        a, b = (e.value(tree) for e, tree in zip(evaluations, (reference, answer), strict=True))
    except (ArithmeticError, ValueError):
        return None
    if shape(a) != shape(b):
        return False
    real = _real(a), _real(b)
    if not all(real) and (not strict or (values and any(real))):
        return None
    difference = _relative_difference(a, b)
    if difference > DIFFERS and not any(map(_is_noisy, evaluations, (a, b))):
        return False
    if difference <= AGREES and not confirm:
        return True
    return _agree_in_digits(reference, answer, values, budget)


def _agree_in_digits(reference: Tree, answer: Tree, values: Values, budget: Budget) -> bool | None:
    """Compares with many digits. Values agree if their difference shrinks with more digits."""
    try:
        (less, _), (more, evaluations) = (_difference(reference, answer, values, budget, n) for n in DIGITS)
    except (ArithmeticError, ValueError):
        return None
    if more > MAX_SHRINKAGE * less and more > MAX_RESIDUE * max(e.largest for e in evaluations):
        return False
    return None if any(e.precision_lost for e in evaluations) else True


def _difference(
    reference: Tree, answer: Tree, values: Values, budget: Budget, digits: int
) -> tuple[Any, list[Evaluation]]:
    """Returns the largest absolute difference of the entries, and the two evaluations."""
    evaluations = [Evaluation(with_digits(digits), values, budget) for _ in range(2)]
    a, b = (e.value(tree) for e, tree in zip(evaluations, (reference, answer), strict=True))
    return max(abs(p - q) for p, q in zip(entries(a), entries(b), strict=True)), evaluations


def _is_noisy(evaluation: Evaluation, value: Any) -> bool:
    """Whether intermediate values were so large that their difference, or their sine, is noise."""
    return evaluation.largest > 1e6 * max(map(abs, entries(value))) or evaluation.largest > 1e9


def _relative_difference(a: Any, b: Any) -> Any:
    """Returns the largest relative difference of the entries, infinity if one is undefined."""
    largest: Any = 0
    for p, q in zip(entries(a), entries(b), strict=True):
        difference = abs(p - q)
        if math.isnan(difference):
            return math.inf
        if difference:
            largest = max(largest, difference / max(abs(p), abs(q)))
    return largest


def _real(value: Any) -> bool:
    return all(abs(x.imag) <= 1e-9 * abs(x) for x in entries(value))


def _undefined(tree: Tree) -> bool:
    return tree[0] == "apply" or any(map(_undefined, children(tree)))
