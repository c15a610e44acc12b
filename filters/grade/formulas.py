"""Compare two single things that are not both plain numbers: formulas, with or without units, and ratios.

What stands open raises Open; what would cost too much raises TooLarge.
"""

from __future__ import annotations

import re
from fractions import Fraction

from filters.formula.equivalence import canonical, replaced, same, variables
from filters.formula.evaluate import value_at
from filters.formula.lexer import Budget, Tree, Unreadable
from filters.formula.parser import parse, parts
from filters.formula.rational import exact
from filters.grade.floats import same_float
from filters.grade.numbers import Number, rounds_to, split_unit
from filters.grade.structure import unwrap
from filters.policy import Policy
from filters.text.measurement_units import UNITS

ONE: Tree = ("num", Fraction(1))
_TIME = re.compile(
    r"(?P<hours>[01]?\d|2[0-4]):(?P<minutes>[0-5]\d)(?:\s?(?P<half>[ap])\.?\s?m\.?)?", re.IGNORECASE
)
_TRIGONOMETRIC = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")


class Open(Exception):
    """Two things that cannot be told apart or alike here; the text is the reason's code."""


def same_formulas(
    texts: tuple[str, str], numbers: tuple[Number | None, Number | None], policy: Policy, budget: Budget
) -> bool:
    """Whether two folded texts have the same value, unit or not. Raises Open and TooLarge.

    numbers: what each is where it is a plain number; a decimal may be a rounding of the other's value.
    """
    gold, given = texts
    if (time := _TIME.fullmatch(gold)) and (other := _TIME.fullmatch(given)):
        return _same_times(time, other)
    if gold.count(":") == given.count(":") > 1:
        return _same_ratios(gold.split(":"), given.split(":"), budget)
    if ":" in gold or ":" in given:
        gold, given = gold.replace(":", "/"), given.replace(":", "/")
    (x, unit_x), (y, unit_y) = (
        read_formula(gold, "unreadable_reference"),
        read_formula(given, "unreadable_answer"),
    )
    x, y = _in_degrees(x, unit_x, y, unit_y), _in_degrees(y, unit_y, x, unit_x)
    if unit_x and unit_y and unit_x != unit_y:
        kinds = [UNITS[u].measures if u in UNITS else None for u in (unit_x, unit_y)]
        if None in kinds or kinds[0] == kinds[1]:
            raise Open("units_differ")
        return False
    if _rounded(numbers[0], y, policy, budget) or _rounded(numbers[1], x, policy, budget):
        return True
    floats = _float(numbers[0], y, budget), _float(numbers[1], x, budget)
    if any(floats):
        return True
    verdict = same(x, y, budget)
    if verdict:
        return True
    if None in floats:
        raise Open("ambiguous")
    if unit_x != unit_y and same(_product(gold, "ambiguous"), _product(given, "ambiguous"), budget):
        return True  # 0.64N beside 0.640 N
    if verdict is None or _same_otherwise(x, y, budget):
        raise Open("ambiguous")
    return False


def read_formula(text: str, reason: str) -> tuple[Tree, str]:
    """The tree of a text, and the unit that stood behind it. Raises Open with the reason."""
    core, unit = split_unit(text)
    if unit == "degree" and _TRIGONOMETRIC.search(core):
        core, unit = text, ""
    if unit:
        try:
            return parse(unwrap(core)), unit
        except Unreadable:
            pass
    return _product(text, reason), ""


def _product(text: str, reason: str) -> Tree:
    """The tree of a text in which a unit is a letter like any other."""
    try:
        return parse(unwrap(text))
    except Unreadable:
        raise Open(reason) from None


def _same_times(gold: re.Match[str], given: re.Match[str]) -> bool:
    """Hours and minutes, and a.m. or p.m. where both say it; 3:30 may still be a ratio."""
    halves = {half.casefold() for half in (gold["half"], given["half"]) if half}
    same_clock = int(gold["hours"]) == int(given["hours"]) and gold["minutes"] == given["minutes"]
    if not same_clock and not halves:
        raise Open("ambiguous")
    return same_clock and len(halves) < 2


def _same_ratios(gold: list[str], given: list[str], budget: Budget) -> bool:
    """1:2:3 is 2:4:6."""
    a = [_product(term, "unreadable_reference") for term in gold]
    b = [_product(term, "unreadable_answer") for term in given]
    pairs = zip(a[1:], b[1:], strict=True)
    verdicts = [same(("mul", p, b[0]), ("mul", q, a[0]), budget) for p, q in pairs]
    if False not in verdicts and None in verdicts:
        raise Open("ambiguous")
    return all(verdicts)


def _same_otherwise(x: Tree, y: Tree, budget: Budget) -> bool:
    """Whether they are alike in another reading: 2k pi and 2n pi, 5m and 5, a log that is to base ten."""
    names, others = variables(x) - variables(y), variables(y) - variables(x)
    if len(names) == len(others) == 1 and any(part[0] != "var" for part in parts(x)):
        (name,), (other,) = names, others
        if same(x, replaced(y, other, ("var", name)), budget):
            return True
    if len(names | others) == 1 and (unit := (names | others).pop()) in UNITS:
        x, y = replaced(x, unit, ONE), replaced(y, unit, ONE)
        if same(x, y, budget):
            return True
    return "fn(log," in canonical(x) + canonical(y) and bool(same(_to_ten(x), _to_ten(y), budget))


def _to_ten(tree: Tree) -> Tree:
    if tree[:2] == ("fn", "log") and len(tree) == 3:
        tree = ("fn", "lg", tree[2])
    return tuple(_to_ten(part) if isinstance(part, tuple) else part for part in tree)


def _rounded(number: Number | None, tree: Tree, policy: Policy, budget: Budget) -> bool:
    """Whether the first is a decimal and a rounding of a constant formula's value."""
    if number is None or number.percent or number.decimals is None or variables(tree):
        return False
    if (value := exact(tree, budget)) is not None:
        return rounds_to(number, value, policy)
    try:
        found = value_at(tree, {}, budget)
    except (Unreadable, ArithmeticError, ValueError):
        return False
    if abs(found.imag) > 1e-12 * abs(found):
        return False
    value = Fraction(found.real)
    return rounds_to(number, value, policy) or bool(same_float(number, value))


def _float(number: Number | None, tree: Tree, budget: Budget) -> bool | None:
    """Whether the first is how a program prints the value of the second; None where that may be."""
    value = None if number is None else exact(tree, budget)
    return False if number is None or value is None else same_float(number, value)


def _in_degrees(tree: Tree, unit: str, other: Tree, other_unit: str) -> Tree:
    """Radians, a multiple of pi beside degrees, in degrees."""
    if unit == "" and other_unit == "degree" and "(pi)" in canonical(tree) and "(pi)" not in canonical(other):
        return ("mul", tree, ("num", Fraction(180)), ("inv", ("fn", "pi")))
    return tree
