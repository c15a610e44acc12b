"""Compares two single expressions: formulas with or without units, ratios and times.

Raises Undecided, or TooLarge if a comparison costs too much.
"""

from __future__ import annotations

import re
from fractions import Fraction

from filters.formula.equivalence import equivalent
from filters.formula.evaluate import evaluate
from filters.formula.lexer import FUNCTIONS
from filters.formula.parser import parse_formula
from filters.formula.rational import exact_value
from filters.formula.tree import (
    Budget,
    Tree,
    UnsupportedFormula,
    canonical_form,
    children,
    substitute,
    variables,
)
from filters.grade.decision import Undecided
from filters.grade.floats import is_printed_float
from filters.grade.numbers import Number, rounds_to, split_unit
from filters.grade.split_structure import strip_brackets
from filters.policy import Policy
from filters.text.measurement_units import UNITS

_ONE: Tree = ("num", Fraction(1))
_TIME = re.compile(
    r"(?P<hours>[01]?\d|2[0-4]):(?P<minutes>[0-5]\d)(?:\s?(?P<half>[ap])\.?\s?m\.?)?", re.IGNORECASE
)
_APART = re.compile(r"(?<!\S)[a-z]{3,}(?!\S)", re.IGNORECASE)
_TRIGONOMETRIC = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")


def equal_formulas(
    reference: str, answer: str, numbers: tuple[Number | None, Number | None], policy: Policy, budget: Budget
) -> bool:
    """Whether two normalized texts have the same value. Raises Undecided or TooLarge.

    `numbers` are the texts as plain numbers, if they are. A decimal may be a rounding of the other's value.
    """
    if (time := _TIME.fullmatch(reference)) and (other := _TIME.fullmatch(answer)):
        return _equal_times(time, other)
    if reference.count(":") == answer.count(":") > 1:
        return _equal_ratios(reference.split(":"), answer.split(":"), budget)
    reference, answer = reference.replace(":", "/"), answer.replace(":", "/")
    x, x_unit = parse_with_unit(reference, "unreadable_reference")
    y, y_unit = parse_with_unit(answer, "unreadable_answer")
    x, y = _in_degrees(x, x_unit, y, y_unit), _in_degrees(y, y_unit, x, x_unit)
    if x_unit and y_unit and x_unit != y_unit:
        measures = [UNITS[unit].measures if unit in UNITS else None for unit in (x_unit, y_unit)]
        if None not in measures and measures[0] != measures[1]:
            return False
        if None in measures or not equivalent(_scaled(x, x_unit), _scaled(y, y_unit), budget):
            raise Undecided("units_differ")
        return True  # 3.6 * 10^{-3} m and 3.6 mm
    if _is_rounding(numbers[0], y, policy, budget) or _is_rounding(numbers[1], x, policy, budget):
        return True
    floats = _is_float(numbers[0], y, budget), _is_float(numbers[1], x, budget)
    if any(floats):
        return True
    equal = equivalent(x, y, budget)
    if equal:
        return True
    if None in floats:
        raise Undecided("ambiguous")
    if x_unit != y_unit and equivalent(_parse(reference, "ambiguous"), _parse(answer, "ambiguous"), budget):
        return True  # 0.64N and 0.640 N
    if equal is None or _equal_in_another_reading(x, y, budget):
        raise Undecided("ambiguous")
    if _equal_without_words(reference, answer, budget) or _equal_at_whole_numbers(x, y, budget):
        raise Undecided("ambiguous")
    return False


def _scaled(tree: Tree, unit: str) -> Tree:
    """Converts a formula to the base unit of what its unit measures."""
    return ("mul", tree, ("num", UNITS[unit].size))


def _equal_at_whole_numbers(x: Tree, y: Tree, budget: Budget) -> bool:
    """Whether formulas with floor or ceil of one variable are equal if it counts something."""
    names = variables(x) | variables(y)
    if len(names) != 1 or not re.search(r"fn\((?:floor|ceil),", canonical_form(x) + canonical_form(y)):
        return False
    try:
        pairs = [[evaluate(tree, {min(names): float(n)}, budget) for tree in (x, y)] for n in range(1, 25)]
    except (UnsupportedFormula, ArithmeticError, ValueError):
        return False
    return all(abs(a - b) <= 1e-9 * max(abs(a), 1) for a, b in pairs)


def _equal_without_words(reference: str, answer: str, budget: Budget) -> bool:
    """Whether two texts are equal if letters that stand apart are words: "now 5" is not n*o*w*5 but 5."""
    a, b = (
        _APART.sub(lambda word: word[0] if word[0].lower() in FUNCTIONS else " ", text).strip()
        for text in (reference, answer)
    )
    if (a, b) == (reference, answer) or not a or not b:
        return False
    return bool(equivalent(_parse(a, "ambiguous"), _parse(b, "ambiguous"), budget))


def parse_with_unit(text: str, reason: str) -> tuple[Tree, str]:
    """Returns the tree of a text and the unit after it. Raises Undecided with the reason."""
    core, unit = split_unit(text)
    if unit and not (unit == "degree" and _TRIGONOMETRIC.search(core)):
        try:
            return parse_formula(strip_brackets(core)), unit
        except UnsupportedFormula:
            pass
    return _parse(text, reason), ""


def _parse(text: str, reason: str) -> Tree:
    """Returns the tree of a text in which a unit is a letter like any other."""
    try:
        return parse_formula(strip_brackets(text))
    except UnsupportedFormula:
        raise Undecided(reason) from None


def _equal_times(reference: re.Match[str], answer: re.Match[str]) -> bool:
    """Compares hours and minutes, and a.m. or p.m. if both state it. 3:30 may still be a ratio."""
    times = [(int(time["hours"]), time["minutes"]) for time in (reference, answer)]
    halves = [(time["half"] or "").casefold() for time in (reference, answer)]
    equal = times[0] == times[1]
    if not equal and not any(halves):
        raise Undecided("ambiguous")
    if equal and "" in halves:
        return True
    on_24_hours = {
        (hours % 12 + 12 * (half == "p") if half else hours, minutes)
        for (hours, minutes), half in zip(times, halves, strict=True)
    }
    return len(on_24_hours) == 1


def _equal_ratios(reference: list[str], answer: list[str], budget: Budget) -> bool:
    """Whether two ratios are equal, as 1:2:3 and 2:4:6 are."""
    a = [_parse(term, "unreadable_reference") for term in reference]
    b = [_parse(term, "unreadable_answer") for term in answer]
    pairs = zip(a[1:], b[1:], strict=True)
    verdicts = [equivalent(("mul", p, b[0]), ("mul", q, a[0]), budget) for p, q in pairs]
    if False not in verdicts and None in verdicts:
        raise Undecided("ambiguous")
    return all(verdicts)


def _equal_in_another_reading(x: Tree, y: Tree, budget: Budget) -> bool:
    """Whether another reading makes them equal: 2k pi and 2n pi, 5m and 5, log as the decimal logarithm."""
    names, others = variables(x) - variables(y), variables(y) - variables(x)
    if len(names) == len(others) == 1 and any(part[0] != "var" for part in children(x)):
        (name,), (other,) = names, others
        if equivalent(x, substitute(y, other, ("var", name)), budget):
            return True
    if len(names | others) == 1 and (unit := (names | others).pop()) in UNITS:
        x, y = substitute(x, unit, _ONE), substitute(y, unit, _ONE)
        if equivalent(x, y, budget):
            return True
    if "fn(log," not in canonical_form(x) + canonical_form(y):
        return False
    return bool(equivalent(_with_decimal_log(x), _with_decimal_log(y), budget))


def _with_decimal_log(tree: Tree) -> Tree:
    if tree[:2] == ("fn", "log") and len(tree) == 3:
        tree = ("fn", "lg", tree[2])
    return tuple(_with_decimal_log(part) if isinstance(part, tuple) else part for part in tree)


def _is_rounding(number: Number | None, tree: Tree, policy: Policy, budget: Budget) -> bool:
    """Whether a number is a decimal and a rounding of a constant formula's value."""
    if number is None or number.percent or number.decimals is None or variables(tree):
        return False
    if (value := exact_value(tree, budget)) is not None:
        return rounds_to(number, value, policy)
    try:
        found = evaluate(tree, {}, budget)
    except (UnsupportedFormula, ArithmeticError, ValueError):
        return False
    if abs(found.imag) > 1e-12 * abs(found):
        return False
    value = Fraction(found.real)
    return rounds_to(number, value, policy) or bool(is_printed_float(number, value))


def _is_float(number: Number | None, tree: Tree, budget: Budget) -> bool | None:
    """Whether a number is what a program prints for the formula's value, None if it may be."""
    value = None if number is None else exact_value(tree, budget)
    return False if number is None or value is None else is_printed_float(number, value)


def _in_degrees(tree: Tree, unit: str, other: Tree, other_unit: str) -> Tree:
    """Converts a multiple of pi to degrees if the other formula is in degrees."""
    in_pi = ["(pi)" in canonical_form(side) for side in (tree, other)]
    if unit or other_unit != "degree" or in_pi != [True, False]:
        return tree
    return ("mul", tree, ("num", Fraction(180)), ("inv", ("fn", "pi")))
