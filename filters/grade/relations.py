r"""Equations and inequalities: what they are solved to, and whether two are the same.

Two equations are the same when the zeros of one are zeros of the other; tested at points, never solved.
"""

from __future__ import annotations

import cmath
import re

from filters.formula.equivalence import canonical, far_points, piecewise, points, variables
from filters.formula.evaluate import Values, root, value_at
from filters.formula.lexer import Budget, Tree, Unreadable
from filters.formula.parser import parse
from filters.grade.structure import Structure, structure

CLOSE = 1e-9  # relative
ABOUT = 0.02  # relative: 0.57 is about 0.577
POINTS = 4
FAR = 1e5  # beyond which floating point has too few digits for the ratio of two formulas

_NAME = r"(?:\\[A-Za-z]+|[A-Za-z]+)(?:_(?:\{[^{}=<>]{1,40}\}|\w))?'{0,2}"
LABEL = re.compile(
    rf"\|?(?:m\s?(?=\\angle))?(?:\\(?:angle|triangle|overline|vec|hat|bar)\s?)?\{{?{_NAME}(?:\s{_NAME}){{0,6}}\}}?(?:\^(?:\{{-1\}}|-1)|\*)?"
    rf"\s?(?:\([^=<>]{{0,60}}\))?\|?(?:\s?[+:/]\s?{_NAME})*"
    rf"|\\frac\s?\{{{_NAME}\}}\s?\{{{_NAME}\}}"
    rf"|\(\s?{_NAME}(?:\s?,\s?{_NAME})+\s?\)"
)
# What makes no label of the words before "=": no solution for n = 5.
_CONDITION = re.compile(r"\b(?:[Nn]ot?|except|[Aa]ll|any|without|for|if|when|unless)\b")
# What stands before "=" and is no unknown: its value is on the other side.
_OPERATION = re.compile(r"\\(?:lim|int|iint|sum|prod|max|min|gcd|lcm|det|inf|sup|arg)(?![A-Za-z])")
FLIPPED = str.maketrans("<>≤≥", "><≥≤")


def label_of(relation: Structure | str) -> str | None:
    """The name that a relation gives its value: of "f(x) = 3" f(x); None where it gives none."""
    if isinstance(relation, str):
        relation = structure(relation)
    if relation.kind != "chain":
        return None
    first, last = relation.parts[0], relation.parts[-1]
    if _CONDITION.search(first):
        return None
    if LABEL.fullmatch(first) and not _is_value(first):
        return _spelled(first)
    if relation.marks[0] in "<>≤≥":
        middle = relation.parts[1]
        return _spelled(middle) if LABEL.fullmatch(middle) and not _is_value(middle) else None
    if _is_constant(first) and len(relation.parts) == 2 and LABEL.fullmatch(last) and not _is_value(last):
        return _spelled(last)  # 2 = x
    return None


def values_of(relation: Structure) -> tuple[str, ...] | None:
    """What a chain of = and ≈, or "x ∈ S", comes to: its last link, and with ≈ both sides of that.

    None where there is no name and not every link is a value, 7 = 11a + c does not say what a is; and
    where two links contradict each other, as in 5 + 5 = 7 = 11.
    """
    parts, marks = relation.parts, relation.marks
    if marks == ("∈",):
        return (parts[1],) if LABEL.fullmatch(parts[0]) else None
    if not set(marks) <= {"=", "≈"}:
        return None
    if label_of(relation) is None and not _OPERATION.match(parts[0]) and not _all_constant(parts):
        return None
    if len(parts) == 2 and _is_constant(parts[0]) and LABEL.fullmatch(parts[1]) and not _is_value(parts[1]):
        return (parts[0],)
    first = len(parts) - 1
    while first > 0 and marks[first - 1] == "≈" and (first > 1 or _is_constant(parts[0])):
        first -= 1
    return parts[first:] if _near(parts) else None


def _near(texts: tuple[str, ...]) -> bool:
    """Whether all constants among these are about the same: 1/3 ≈ 1.3 says neither."""
    values = [value for value in map(_constant, texts) if value is not None]
    return all(abs(value - values[0]) <= ABOUT * abs(values[0]) for value in values)


def same_equation(a: Structure, b: Structure, budget: Budget) -> bool | None:
    """Whether two equations of two sides have the same solutions; None where points do not show it."""
    f, g = _difference(a), _difference(b)
    if f is None or g is None:
        return None
    names = variables(f) | variables(g)
    if not variables(f) or not variables(g):
        return None
    if _constant_ratio(f, g, names, budget) is not None:
        return True
    if variables(f) != variables(g):
        return False
    return _same_zeros(f, g, names, budget)


def same_relation(a: Structure, b: Structure, budget: Budget) -> bool | None:
    """Whether two inequalities of two sides are the same; None where points do not show it."""
    if a.marks == b.marks[::-1] or a.marks == tuple(m.translate(FLIPPED) for m in b.marks[::-1]):
        turned = Structure("chain", b.parts[::-1], tuple(m.translate(FLIPPED) for m in b.marks[::-1]))
        if a.marks == turned.marks and _all_canonical(a, turned):
            return True
    if a.marks == b.marks and _all_canonical(a, b):
        return True
    f, g = _difference(a), _difference(b)
    if f is None or g is None or a.marks[0] not in "<>≤≥≠" or b.marks[0] not in "<>≤≥≠":
        return None
    ratio = _constant_ratio(f, g, variables(f) | variables(g), budget)
    if ratio is None:
        return None
    if (a.marks[0] == "≠") != (b.marks[0] == "≠"):
        return False
    if a.marks[0] == "≠":
        return True
    return (a.marks[0] if ratio > 0 else a.marks[0].translate(FLIPPED)) == b.marks[0]


def _spelled(name: str) -> str:
    return re.sub(r"[\s{}\\]", "", name)


def _is_value(name: str) -> bool:
    return name.strip() in ("e", "i", "I", r"\pi", "pi")


def _is_constant(text: str) -> bool:
    try:
        tree = parse(text)
    except Unreadable:
        return False
    return not variables(tree) and "apply(" not in canonical(tree)  # f(2) has a value, but which?


def _all_constant(texts: tuple[str, ...]) -> bool:
    return all(map(_is_constant, texts))


def _constant(text: str) -> complex | None:
    try:
        return value_at(parse(text), {}, Budget()) if _is_constant(text) else None
    except (Unreadable, ArithmeticError, ValueError):
        return None


def _all_canonical(a: Structure, b: Structure) -> bool:
    try:
        return all(canonical(parse(p)) == canonical(parse(q)) for p, q in zip(a.parts, b.parts, strict=True))
    except Unreadable:
        return False


def _difference(relation: Structure) -> Tree | None:
    """The tree that is zero where both sides are equal."""
    if len(relation.parts) != 2:
        return None
    try:
        left, right = (parse(part) for part in relation.parts)
    except Unreadable:
        return None
    return ("add", left, ("neg", right))


def _constant_ratio(f: Tree, g: Tree, names: set[str], budget: Budget) -> float | None:
    """f / g where it is the same real number, not zero, at every point."""
    ratios = []
    for values in _everywhere(names, f, g):
        try:
            a, b = value_at(f, values, budget), value_at(g, values, budget)
        except (ArithmeticError, ValueError, Unreadable):
            continue
        if a == 0 or b == 0 or not cmath.isfinite(a / b):
            continue
        ratios.append(a / b)
    if len(ratios) < 3 or any(abs(r - ratios[0]) > CLOSE * abs(ratios[0]) for r in ratios):
        return None
    return ratios[0].real if abs(ratios[0].imag) < CLOSE * abs(ratios[0]) else None


def _everywhere(names: set[str], *trees: Tree) -> list[Values]:
    """Points of either sign, as |x| is x at positive ones; for such trees far from 0 as well."""
    near = points(names, POINTS) + points(names, POINTS // 2, -1)
    far = far_points(names, *trees) if any(map(piecewise, trees)) else []
    return near + [values for values in far if max(map(abs, values.values()), default=0) < FAR]


def _same_zeros(f: Tree, g: Tree, names: set[str], budget: Budget) -> bool | None:
    """Whether zeros of each, found along one variable, are zeros of the other."""
    name = min(names)
    found = 0
    for one, other in ((f, g), (g, f)):
        for values in _everywhere(names - {name}):
            for start in (0.7, -1.3, 2.9, -4.1):
                zero = root(one, name, values, start, budget)
                if zero is None or (
                    min(values.values(), default=1) < 0 and abs(zero.imag) > CLOSE * abs(zero)
                ):
                    continue
                verdict = _is_zero(other, values | {name: zero}, name, budget)
                if verdict is False:
                    return False
                found += bool(verdict)
    return True if found >= POINTS and len(names) > 1 else None


def _is_zero(tree: Tree, at: Values, name: str, budget: Budget) -> bool | None:
    """Whether the tree vanishes here, beside its values nearby; None where it has none."""
    try:
        here = abs(value_at(tree, at, budget))
        near = abs(value_at(tree, at | {name: at[name] * 1.01 + 0.01}, budget))
    except (ArithmeticError, ValueError, Unreadable):
        return None
    return here <= 1e-6 * near if near else None
