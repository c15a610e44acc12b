r"""Reads the values, intervals and points that relations state, and compares equations and inequalities.

Two equations are equal if they have the same zeros. This is tested at points; no equation is solved.
"""

from __future__ import annotations

import cmath
import re

from filters.formula.equivalence import distant_points, is_piecewise, sample_points
from filters.formula.evaluate import Values, evaluate, find_root
from filters.formula.parser import parse_formula
from filters.formula.tree import Budget, Tree, UnsupportedFormula, canonical_form, variables
from filters.grade.split_structure import Structure, complement, parse_structure

TOLERANCE = 1e-9  # relative
APPROXIMATE = 0.02  # relative: 0.57 ≈ 0.577
POINTS = 4
MAX_COORDINATE = 1e5  # beyond, floating point has too few digits for the ratio of two formulas

_NAME = r"(?:\\[A-Za-z]+|[A-Za-z]+)(?:_(?:\{[^{}=<>]{1,40}\}|\w))?'{0,2}"
_LABEL = re.compile(
    rf"\|?(?:m\s?(?=\\angle))?(?:\\(?:angle|triangle|overline|vec|hat|bar)\s?)?\{{?{_NAME}(?:\s{_NAME}){{0,6}}\}}?(?:\^(?:\{{-1\}}|-1)|\*)?"
    rf"\s?(?:\([^=<>]{{0,60}}\))?\|?(?:\s?[+:/]\s?{_NAME})*"
    rf"|\\frac\s?\{{{_NAME}\}}\s?\{{{_NAME}\}}"
    rf"|\(\s?{_NAME}(?:\s?,\s?{_NAME})+\s?\)"
)
# Words before "=" that make it no label: no solution for n = 5.
_CONDITION = re.compile(r"\b(?:[Nn]ot?|except|[Aa]ll|any|without|for|if|when|unless)\b")
# Operations before "=" whose value is on the other side.
_OPERATION = re.compile(r"\\(?:lim|int|iint|sum|prod|max|min|gcd|lcm|det|inf|sup|arg)(?![A-Za-z])")
_FLIPPED = str.maketrans("<>≤≥", "><≥≤")


def label_of(relation: Structure | str) -> str | None:
    """Returns the name that a relation gives its value, f(x) for "f(x) = 3", or None."""
    if isinstance(relation, str):
        relation = parse_structure(relation)
    if relation.kind != "chain":
        return None
    first, last = relation.parts[0], relation.parts[-1]
    if _CONDITION.search(first):
        return None
    between = len(relation.parts) == 3 and set(relation.marks) <= set("<>≤≥")  # a < x < b is about x
    if _is_name(first) and not between:
        return _spelled(first)
    if relation.marks[0] in "<>≤≥":
        return _spelled(relation.parts[1]) if _is_name(relation.parts[1]) else None
    if _is_constant(first) and len(relation.parts) == 2 and _is_name(last):
        return _spelled(last)  # 2 = x
    return None


def values_of(relation: Structure) -> tuple[str, ...] | None:
    """Returns the value of a chain of = and ≈ or of "x ∈ S": its last link, with ≈ both sides of it.

    Returns None if the chain has no name and a link is no value, as in 7 = 11a + c, or if its links
    contradict each other, as in 5 + 5 = 7 = 11.
    """
    parts, marks = relation.parts, relation.marks
    if marks == ("∈",):
        return (parts[1],) if _LABEL.fullmatch(parts[0]) else None
    if not set(marks) <= {"=", "≈"}:
        return None
    if label_of(relation) is None and not _OPERATION.match(parts[0]) and not all(map(_is_constant, parts)):
        return None
    if len(parts) == 2 and _is_constant(parts[0]) and _is_name(parts[1]):
        return (parts[0],)
    first = len(parts) - 1
    while first > 0 and marks[first - 1] == "≈" and (first > 1 or _is_constant(parts[0])):
        first -= 1
    values = [value for value in map(_constant, parts) if value is not None]
    consistent = all(abs(value - values[0]) <= APPROXIMATE * abs(values[0]) for value in values)
    return parts[first:] if consistent else None


def equal_equations(a: Structure, b: Structure, budget: Budget) -> bool | None:
    """Whether two equations with two sides have the same solutions, None if points do not tell."""
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
    return _equal_zeros(f, g, names, budget)


def equal_inequalities(a: Structure, b: Structure, budget: Budget) -> bool | None:
    """Whether two inequalities with two sides are equal, None if points do not tell."""
    turned = Structure("chain", b.parts[::-1], tuple(m.translate(_FLIPPED) for m in b.marks[::-1]))
    if any(a.marks == other.marks and None is not _forms(a) == _forms(other) for other in (b, turned)):
        return True
    f, g = _difference(a), _difference(b)
    if f is None or g is None or a.marks[0] not in "<>≤≥≠" or b.marks[0] not in "<>≤≥≠":
        return None
    ratio = _constant_ratio(f, g, variables(f) | variables(g), budget)
    if ratio is None:
        return None
    if "≠" in (a.marks[0], b.marks[0]):
        return a.marks[0] == b.marks[0]
    return (a.marks[0] if ratio > 0 else a.marks[0].translate(_FLIPPED)) == b.marks[0]


def _spelled(name: str) -> str:
    return re.sub(r"[\s{}\\]", "", name)


def _is_name(text: str) -> bool:
    return bool(_LABEL.fullmatch(text)) and text.strip() not in ("e", "i", "I", r"\pi", "pi")


def _parsed(text: str) -> Tree | None:
    try:
        return parse_formula(text)
    except UnsupportedFormula:
        return None


def _is_constant(text: str) -> bool:
    tree = _parsed(text)  # the value of f(2) is unknown
    return tree is not None and not variables(tree) and "apply(" not in canonical_form(tree)


def _constant(text: str) -> complex | None:
    try:
        return evaluate(parse_formula(text), {}, Budget()) if _is_constant(text) else None
    except (UnsupportedFormula, ArithmeticError, ValueError):
        return None


def _forms(relation: Structure) -> list[str] | None:
    trees = [_parsed(part) for part in relation.parts]
    return None if None in trees else [canonical_form(tree) for tree in trees if tree]


def _difference(relation: Structure) -> Tree | None:
    """Returns the tree that is zero if both sides are equal."""
    if len(relation.parts) != 2:
        return None
    left, right = map(_parsed, relation.parts)
    return ("add", left, ("neg", right)) if left and right else None


def _constant_ratio(f: Tree, g: Tree, names: set[str], budget: Budget) -> float | None:
    """Returns f / g if it is the same nonzero real number at every point."""
    ratios = []
    for values in _everywhere(names, f, g):
        try:
            a, b = evaluate(f, values, budget), evaluate(g, values, budget)
        except (ArithmeticError, ValueError, UnsupportedFormula):
            continue
        if a == 0 or b == 0 or not cmath.isfinite(a / b):
            continue
        ratios.append(a / b)
    if len(ratios) < 3 or any(abs(r - ratios[0]) > TOLERANCE * abs(ratios[0]) for r in ratios):
        return None
    return ratios[0].real if abs(ratios[0].imag) < TOLERANCE * abs(ratios[0]) else None


def _everywhere(names: set[str], *trees: Tree) -> list[Values]:
    """Returns points of either sign, and for piecewise trees such as |x| also points far from 0."""
    near = sample_points(names, POINTS) + sample_points(names, POINTS // 2, -1)
    far = distant_points(names, *trees) if any(map(is_piecewise, trees)) else []
    return near + [values for values in far if max(map(abs, values.values()), default=0) < MAX_COORDINATE]


def _equal_zeros(f: Tree, g: Tree, names: set[str], budget: Budget) -> bool | None:
    """Whether the zeros of each tree, found along one variable, are zeros of the other tree."""
    name = min(names)
    found = 0
    for one, other in ((f, g), (g, f)):
        for values in _everywhere(names - {name}):
            negative = min(values.values(), default=1) < 0
            for start in (0.7, -1.3, 2.9, -4.1):
                zero = find_root(one, name, values, start, budget)
                if zero is None or (negative and abs(zero.imag) > TOLERANCE * abs(zero)):
                    continue
                is_zero = _is_zero(other, values | {name: zero}, name, budget)
                if is_zero is False:
                    return False
                found += bool(is_zero)
    return True if found >= POINTS and len(names) > 1 else None


def _is_zero(tree: Tree, at: Values, name: str, budget: Budget) -> bool | None:
    """Whether the tree vanishes here compared with its values nearby, None if it has none."""
    try:
        here = abs(evaluate(tree, at, budget))
        near = abs(evaluate(tree, at | {name: at[name] * 1.01 + 0.01}, budget))
    except (ArithmeticError, ValueError, UnsupportedFormula):
        return None
    return here <= 1e-6 * near if near else None


def interval(relation: Structure) -> Structure | None:
    """Returns the interval or union that an inequality or "x ∈ [a, b]" states for its one name, or None."""
    parts, marks = relation.parts, relation.marks
    if label_of(relation) is None:
        return None
    if marks == ("∈",):
        inner = parse_structure(parts[1])
        return inner if inner.kind == "tuple" else None
    if marks == ("≠",):
        return Structure("union", complement((parts[1],)))
    if len(parts) > 3 or not (set(marks) <= set("<≤") or set(marks) <= set(">≥")):
        return None
    named = _LABEL.fullmatch(parts[0]) is not None
    name, bound = parts[:2] if named else parts[1::-1]
    is_upper = named == (marks[0] in "<≤")
    if marks[0] in ">≥":
        parts, marks = parts[::-1], tuple(mark.translate(_FLIPPED) for mark in marks[::-1])
    low, high = "[" if marks[0] == "≤" else "(", "]" if marks[-1] == "≤" else ")"
    if len(parts) == 3:
        return Structure("tuple", (parts[0], parts[2]), (low, high))
    if "|" in name and is_upper:  # |x| < 3
        return Structure("tuple", (f"-({bound})", bound), (low, high))
    if "|" in name:
        return Structure("union", (f"(-∞,-({bound}){high}", f"{low}{bound},∞)"))
    if is_upper:
        return Structure("tuple", ("-∞", bound), ("(", high))
    return Structure("tuple", (bound, "∞"), (low, ")"))


_MEMBER = r"[A-Za-z](?:\s?,\s?[A-Za-z])*\s?∈\s?"
_DOMAIN = re.compile(rf"{_MEMBER}(?:\\mathbb.*|[ZNQR](?![A-Za-z]).*)")
_BRACKETED_DOMAIN = re.compile(rf"(?<=\S)\s?\(\s?{_MEMBER}(?:\\mathbb|[ZNQR](?![A-Za-z]))[^()]*\)\Z")


def without_domain(text: str) -> str:
    """Removes the domain of a variable in brackets at the end: k pi (k ∈ Z)."""
    return _BRACKETED_DOMAIN.sub("", text) if "∈" in text else text


def without_conditions(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Removes the domain of a variable: k pi, k ∈ Z."""
    kept = tuple(part for part in parts if not _DOMAIN.fullmatch(part))
    return kept or parts


def joined_bounds(text: str, parts: tuple[str, ...]) -> Structure | None:
    """Returns inequalities of one name, joined by "and" or "or", as an interval or a union, or None."""
    words = {word for word in ("and", "or") if re.search(rf"(?<![a-z\\]){word}(?![a-z])", text)}
    bounds = [parse_structure(part) for part in parts]
    if len(words) != 1 or any(not set(bound.marks) & set("<>≤≥") for bound in bounds):
        return None
    found = [interval(bound) for bound in bounds]
    intervals = [side for side in found if side is not None and side.kind == "tuple"]
    if len({label_of(bound) for bound in bounds}) != 1 or len(intervals) < len(bounds):
        return None
    if words == {"or"}:
        return Structure("union", tuple(f"{i.marks[0]}{','.join(i.parts)}{i.marks[1]}" for i in intervals))
    if len(intervals) != 2:
        return None
    low, high = sorted(intervals, key=lambda side: side.parts[0] == "-∞")
    if low.parts[1] != "∞" or high.parts[0] != "-∞":
        return None
    return Structure("tuple", (low.parts[0], high.parts[1]), (low.marks[0], high.marks[1]))


def is_indexed(several: Structure) -> bool:
    """Whether a list names the values of one unknown: x_1 = 3, x_2 = 2."""
    labels = {label_of(part) or "" for part in several.parts} if several.kind == "list" else set()
    one_unknown = len({label[:1] for label in labels}) == 1 and all("_" in label for label in labels)
    return one_unknown and len(labels) == len(several.parts) > 1


def is_unnamed(several: Structure) -> bool:
    return all(label_of(part) is None for part in several.parts)


def without_names(several: Structure) -> Structure:
    """Returns the values of a list of assignments."""
    return several._replace(parts=tuple(part.partition("=")[2].strip() for part in several.parts))


def solutions(several: Structure) -> Structure:
    """Returns a list of assignments as points: p = 5, q = 2; p = 7, q = 2 becomes (5, 2), (7, 2).

    Coordinates are in the order of their names. Repeated points count once, repeated numbers do not.
    """
    if several.kind != "list":
        return several
    parts = several.parts
    labels = [label_of(part) or "" for part in parts] if "=" in parts[0] else []
    count = len(set(labels))
    if len(parts) == count and all(len(label) == 1 for label in labels):  # y = 1, x = 2
        parts = tuple(part for _, part in sorted(zip(labels, parts, strict=True)))
    if 1 < count < len(parts) and labels == labels[:count] * (len(parts) // count):
        values = without_names(several).parts
        order = sorted(range(count), key=labels.__getitem__)
        starts = range(0, len(parts), count)
        parts = tuple(f"({','.join(values[start + i] for i in order)})" for start in starts)
    if all(part[:1] == "(" for part in parts):
        parts = tuple(dict.fromkeys(part.replace(" ", "") for part in parts))
    return several._replace(parts=parts)
