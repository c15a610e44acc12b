r"""Equations and inequalities: what they are solved to, the interval they describe, whether two are the same.

Two equations are the same when the zeros of one are zeros of the other; tested at points, never solved.
"""

from __future__ import annotations

import cmath
import re

from filters.evaluate import Values, root, value_at
from filters.formula import parse
from filters.identity import canonical, points, variables
from filters.structure import Structure, gaps, structure
from filters.tokens import Budget, Tree, Unreadable

CLOSE = 1e-9  # relative
ABOUT = 0.02  # relative: 0.57 is about 0.577
POINTS = 4

_NAME = r"(?:\\[A-Za-z]+|[A-Za-z]+)(?:_(?:\{[^{}=<>]{1,40}\}|\w))?'{0,2}"
_LABEL = re.compile(
    rf"\|?(?:m\s?(?=\\angle))?(?:\\(?:angle|triangle|overline|vec|hat|bar)\s?)?\{{?{_NAME}(?:\s{_NAME}){{0,6}}\}}?(?:\^(?:\{{-1\}}|-1)|\*)?"
    rf"\s?(?:\([^=<>]{{0,60}}\))?\|?(?:\s?[+:/]\s?{_NAME})*"
    rf"|\\frac\s?\{{{_NAME}\}}\s?\{{{_NAME}\}}"
    rf"|\(\s?{_NAME}(?:\s?,\s?{_NAME})+\s?\)"
)
# What stands before "=" and is no unknown: its value is on the other side.
_OPERATION = re.compile(r"\\(?:lim|int|iint|sum|prod|max|min|gcd|lcm|det|inf|sup|arg)(?![A-Za-z])")
_FLIPPED = str.maketrans("<>≤≥", "><≥≤")


def label_of(relation: Structure | str) -> str | None:
    """The name that a relation gives its value: of "f(x) = 3" f(x); None where it gives none."""
    if isinstance(relation, str):
        relation = structure(relation)
    if relation.kind != "chain":
        return None
    first, last = relation.parts[0], relation.parts[-1]
    if _LABEL.fullmatch(first) and not _is_value(first):
        return _spelled(first)
    if relation.marks[0] in "<>≤≥":
        middle = relation.parts[1]
        return _spelled(middle) if _LABEL.fullmatch(middle) and not _is_value(middle) else None
    if _is_constant(first) and len(relation.parts) == 2 and _LABEL.fullmatch(last) and not _is_value(last):
        return _spelled(last)  # 2 = x
    return None


def values_of(relation: Structure) -> tuple[str, ...] | None:
    """What a chain of = and ≈, or "x ∈ S", comes to: its last link, and with ≈ both sides of that.

    None where there is no name and not every link is a value, 7 = 11a + c does not say what a is; and
    where two links contradict each other, as in 5 + 5 = 7 = 11.
    """
    parts, marks = relation.parts, relation.marks
    if marks == ("∈",):
        return (parts[1],) if _LABEL.fullmatch(parts[0]) else None
    if not set(marks) <= {"=", "≈"}:
        return None
    if label_of(relation) is None and not _OPERATION.match(parts[0]) and not _all_constant(parts):
        return None
    if len(parts) == 2 and _is_constant(parts[0]) and _LABEL.fullmatch(parts[1]) and not _is_value(parts[1]):
        return (parts[0],)
    first = len(parts) - 1
    while first > 0 and marks[first - 1] == "≈" and (first > 1 or _is_constant(parts[0])):
        first -= 1
    return parts[first:] if _near(parts) else None


def solutions(several: Structure) -> Structure:
    """A list as the points that solve something: p = 5, q = 2; p = 7, q = 2 is (5, 2), (7, 2), the names in
    order; and a point is one solution however often it is named, though a number may stand twice."""
    if several.kind != "list":
        return several
    parts = several.parts
    labels = [label_of(part) or "" for part in parts] if "=" in parts[0] else []
    count = len(set(labels))
    if 1 < count < len(parts) and labels == labels[:count] * (len(parts) // count):
        values = [part.partition("=")[2].strip() for part in parts]
        order = sorted(range(count), key=labels.__getitem__)
        parts = tuple(
            f"({','.join(values[first + i] for i in order)})" for first in range(0, len(parts), count)
        )
    if all(part[:1] == "(" for part in parts):
        parts = tuple(dict.fromkeys(part.replace(" ", "") for part in parts))
    return several._replace(parts=parts)


def _near(texts: tuple[str, ...]) -> bool:
    """Whether all constants among these are about the same: 1/3 ≈ 1.3 says neither."""
    values = [value for value in map(_constant, texts) if value is not None]
    return all(abs(value - values[0]) <= ABOUT * abs(values[0]) for value in values)


def interval(relation: Structure) -> Structure | None:
    """The interval that an inequality, or "x ∈ [a, b]", leaves to its one name; None for any other."""
    parts, marks = relation.parts, relation.marks
    if marks == ("∈",) and label_of(relation):
        inner = structure(parts[1])
        return inner if inner.kind == "tuple" else None
    if marks == ("≠",) and label_of(relation):
        return Structure("union", gaps((parts[1],)))
    if not set(marks) <= set("<>≤≥") or label_of(relation) is None:
        return None
    if len(parts) == 3 and len({mark in "<≤" for mark in marks}) == 1:
        low, high, left, right = parts[0], parts[2], marks[0], marks[1]
        if left in ">≥":
            low, high, left, right = high, low, right, left
        return Structure("tuple", (low, high), ("[" if left in "≤≥" else "(", "]" if right in "≤≥" else ")"))
    if len(parts) != 2:
        return None
    name, bound, mark = parts[0], parts[1], marks[0]
    if not _LABEL.fullmatch(name):
        name, bound, mark = bound, name, mark.translate(_FLIPPED)
    if "|" in name:  # |x| < 3
        ends = "[]" if mark == "≤" else "()"
        return Structure("tuple", (f"-({bound})", bound), tuple(ends)) if mark in "<≤" else None
    if mark in "<≤":
        return Structure("tuple", ("-∞", bound), ("(", "]" if mark == "≤" else ")"))
    return Structure("tuple", (bound, "∞"), ("[" if mark == "≥" else "(", ")"))


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
    if a.marks == b.marks[::-1] or a.marks == tuple(m.translate(_FLIPPED) for m in b.marks[::-1]):
        turned = Structure("chain", b.parts[::-1], tuple(m.translate(_FLIPPED) for m in b.marks[::-1]))
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
    return (a.marks[0] if ratio > 0 else a.marks[0].translate(_FLIPPED)) == b.marks[0]


def _spelled(name: str) -> str:
    return re.sub(r"[\s{}\\]", "", name)


def _is_value(name: str) -> bool:
    return name.strip() in ("e", "i", "I", r"\pi", "pi")


def _is_constant(text: str) -> bool:
    try:
        return not variables(parse(text))
    except (Unreadable, ArithmeticError):
        return False


def _all_constant(texts: tuple[str, ...]) -> bool:
    return all(map(_is_constant, texts))


def _constant(text: str) -> complex | None:
    try:
        return value_at(parse(text), {}, Budget())
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
    for values in points(names, POINTS):
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


def _same_zeros(f: Tree, g: Tree, names: set[str], budget: Budget) -> bool | None:
    """Whether zeros of each, found along one variable, are zeros of the other."""
    name = min(names)
    found = 0
    for one, other in ((f, g), (g, f)):
        for values in points(names - {name}, POINTS):
            for start in (0.7, -1.3, 2.9, -4.1):
                zero = root(one, name, values, start, budget)
                if zero is None:
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
