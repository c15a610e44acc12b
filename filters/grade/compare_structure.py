"""Compares two normalized texts part by part: lists, tuples, sets, relations, finally numbers and formulas.

Raises Undecided, or TooLarge if a comparison costs too much.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from filters.formula.tree import Budget, TooLarge
from filters.grade.decision import Undecided
from filters.grade.formulas import equal_formulas, parse_with_unit
from filters.grade.lookalikes import is_function_of
from filters.grade.numbers import equal_numbers, parse_quantity
from filters.grade.relations import (
    equal_equations,
    equal_inequalities,
    interval,
    is_indexed,
    is_unnamed,
    joined_bounds,
    label_of,
    solutions,
    values_of,
    without_conditions,
    without_domain,
    without_names,
)
from filters.grade.split_structure import Structure, expand_signs, parse_structure, point, rows, vector
from filters.policy import Policy
from filters.text.latex_tables import UNION

_LABEL_WORD = re.compile(r"[A-Z]{2,}|(?=[a-z]*[aeiou])[A-Za-z]{3,}")  # xy is a product
_UNIT_VECTORS = re.compile(r"(?<![A-Za-z\\])i(?![A-Za-z]).{0,200}(?<![A-Za-z\\])j(?![A-Za-z])")  # 2i + 3j
MAX_COMPARISONS = 600  # of parts


def strip_spaces(text: str) -> str:
    """Removes spaces unless they separate two letters or two digits."""
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", text) if " " in text else text


class Comparison:
    """One comparison with its limits. `layer` is the deepest layer that it needed."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._comparisons = 0
        self._budget = Budget()
        self.layer = "number"

    def equal(self, reference: str, answer: str) -> bool:
        """Whether two normalized texts are equal. Raises Undecided or TooLarge."""
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise TooLarge
        if strip_spaces(reference) == strip_spaces(answer):
            return True
        a, b = _aligned(*(solutions(_parse(text)) for text in (reference, answer)))
        if a.kind == b.kind == "single":
            return self._equal_singles(a.parts[0], b.parts[0])
        self.layer = "structure"
        if a.kind == b.kind == "list" or {a.kind, b.kind} <= {"list", "set", "union"}:
            return self._equal_parts(a, b)
        if "chain" in (a.kind, b.kind):
            return self._equal_chains(a, b)
        if a.kind == b.kind == "tuple":
            return self._equal_tuples(a, b)
        if "single" in (a.kind, b.kind):
            return self._equal_single_and_several(a, b)
        return self._equal_tuple_and_other(a, b)

    def _equal_singles(self, reference: str, answer: str) -> bool:
        a, b = (parse_quantity(text, decimal_comma=True) for text in (reference, answer))
        if a and b:
            if (equal := equal_numbers(a, b, self._policy)) is None:
                raise Undecided("units_differ" if a.unit and b.unit else "ambiguous")
            return equal
        self.layer = "formula"
        return equal_formulas(reference, answer, (a, b), self._policy, self._budget)

    def _equal_single_and_several(self, a: Structure, b: Structure) -> bool:
        single, several = (a, b) if a.kind == "single" else (b, a)
        (value,) = single.parts
        if len(several.parts) == 1:
            return self.equal(value, several.parts[0])
        if (number := parse_quantity(value, decimal_comma=True)) and several.kind == "list":
            other = parse_quantity(",".join(several.parts), decimal_comma=True)
            if other and equal_numbers(number, other, self._policy):
                if (
                    number.decimals is None
                    or len(several.parts[1]) == 1
                    or (several is a and several.parts[0] != "0")
                ):
                    raise Undecided("ambiguous")  # 1,2 and 1.2 or 6/5: a list or a decimal comma
                return True  # 2,74 for the reference 2.74
        if several.kind == "list" and self._may_be_grouped(value, ",".join(several.parts)):
            raise Undecided("ambiguous")
        if several.kind == "tuple" and _UNIT_VECTORS.search(value):
            raise Undecided("ambiguous")
        for part in (value, *several.parts):
            _require_readable(part)
        spellings = dict.fromkeys(map(strip_spaces, several.parts))  # 3/4 or 0.75 is one value, 3, 3 are two
        equal = several.kind == "list" and len(spellings) > 1 and all(self.equal(value, p) for p in spellings)
        if equal and len({label_of(part) for part in several.parts} - {None}) > 1:
            raise Undecided("ambiguous")  # x = 2, y = 2 is a point, not 2
        return equal

    def _may_be_grouped(self, value: str, joined: str) -> bool:
        """Whether a list may be the value, with groups as in India or in Germany: 12,34,567 and 1.000,00."""
        if re.fullmatch(r"\d{1,2}(?:,\d{2})+,\d{3}", joined, re.ASCII):
            joined = joined.replace(",", "")
        elif not re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+", joined, re.ASCII):
            return False
        a, b = (parse_quantity(text, decimal_comma=True) for text in (value, joined))
        return bool(a and b and equal_numbers(a, b, self._policy))

    def _equal_tuple_and_other(self, a: Structure, b: Structure) -> bool:
        """Compares a tuple with a list, a set or a union."""
        equal = len(a.parts) == len(b.parts) and all(map(self.equal, a.parts, b.parts))
        marks = {side.marks for side in (a, b) if side.kind == "tuple" and len(side.parts) == 2}
        if equal and ("list" not in (a.kind, b.kind) or ("[", "]") in marks):
            raise Undecided("ambiguous")  # (1, 2) and {1, 2}: an interval, a point or a set
        return equal and not marks & {("[", ")"), ("(", "]")}

    def _equal_tuples(self, a: Structure, b: Structure) -> bool:
        if len(a.parts) != len(b.parts) or (len(a.parts) == 2 and a.marks != b.marks):
            return False
        return all(map(self.equal, a.parts, b.parts))

    def _equal_parts(self, a: Structure, b: Structure) -> bool:
        """Compares lists, sets and unions: each part of one is a part of the other."""
        if not a.kind == b.kind == "list":
            equal = self._contains(a, b) and self._contains(b, a)
            if equal and a.kind == b.kind == "set" and _count_sets(a) != _count_sets(b):
                raise Undecided("ambiguous")  # a brace may group, but {{1}, 2} is not {1, 2}
            return equal
        if len(a.parts) != len(b.parts):
            return False
        named = [len({label_of(part) for part in side.parts} - {None}) > 1 for side in (a, b)]
        if self._policy.ordered_lists or named[0] != named[1]:
            return all(map(self.equal, a.parts, b.parts))
        rest = b.parts
        for part in a.parts:  # in any order, but each as often as in the other list
            at = self._first_equal((part, other) for other in rest)
            if at is None:
                return False
            rest = rest[:at] + rest[at + 1 :]
        return True

    def _contains(self, a: Structure, b: Structure) -> bool:
        """Whether `a` contains every part of `b`."""
        return all(self._first_equal((other, part) for other in a.parts) is not None for part in b.parts)

    def _first_equal(self, pairs: Iterable[tuple[str, str]]) -> int | None:
        """Returns the index of the first equal pair, or None. Raises Undecided if there may be one."""
        undecided: Undecided | None = None
        for at, (one, other) in enumerate(pairs):
            try:
                if self.equal(one, other):
                    return at
            except Undecided as e:
                undecided = e
        if undecided:
            raise undecided
        return None

    def _equal_chains(self, a: Structure, b: Structure) -> bool:
        """Compares relations with each other or with their solution."""
        x, y = (interval(side) if side.kind == "chain" else side for side in (a, b))
        if x and y and _names_agree(a, b) and x.kind == y.kind:
            return self._equal_tuples(x, y) if x.kind == "tuple" else self._equal_parts(x, y)
        if a.kind == b.kind == "chain":
            return self._equal_relations(a, b)
        chain, other = (a, b) if a.kind == "chain" else (b, a)
        values = values_of(chain)
        if values is None:
            raise Undecided("ambiguous")
        solution = other.parts[0] if other.kind == "single" else _as_text(other)
        return any(self.equal(*((v, solution) if chain is a else (solution, v))) for v in values)

    def _equal_relations(self, a: Structure, b: Structure) -> bool:
        x, y = label_of(a), label_of(b)
        a_values, b_values = values_of(a), values_of(b)
        if a_values and b_values and x is not None and y is not None:
            equal = any(self.equal(p, q) for p in a_values for q in b_values)
            if x == y or (not equal and len(a.parts) > 2):
                return equal
            if equal and (is_function_of(x, y) or is_function_of(y, x)):
                raise Undecided("ambiguous")  # the conjugate of z, and z
            words = [bool(_LABEL_WORD.fullmatch(label)) for label in (x, y)]
            if equal and all(words) and x.casefold() != y.casefold():
                raise Undecided("ambiguous")  # AB = 4 and CD = 4
            if equal and (any(words) or ("(" in x) != ("(" in y)):
                return True  # a label in words, or f(x), and a letter
        self.layer = "formula"
        compare = equal_equations if set(a.marks + b.marks) <= {"="} else equal_inequalities
        verdict = compare(a, b, self._budget)
        if verdict is None and a_values and b_values and (x is None or y is None):
            return any(self.equal(p, q) for p in a_values for q in b_values)
        if verdict is None:
            raise Undecided("ambiguous")
        return verdict


def _parse(text: str) -> Structure:
    """Splits a text and expands the signs ± in it."""
    text = without_domain(text)
    found = parse_structure(text)
    readings: tuple[str, ...] = ()
    if found.kind == "single":
        readings = expand_signs(found.parts[0])
    elif found.kind == "tuple" or (found.kind == "chain" and found.marks == ("=",)):
        readings = expand_signs(text)
    elif found.kind == "list":
        parts = without_conditions(found.parts)
        if (bounds := joined_bounds(text, parts)) is not None:
            return bounds
        readings = tuple(reading for part in parts for reading in expand_signs(part))
        if len(readings) == 1:
            return parse_structure(readings[0])
    elif found.kind == "union" and all(parse_structure(part).kind == "set" for part in found.parts):
        return Structure("set", tuple(x for part in found.parts for x in parse_structure(part).parts))
    return Structure("list", readings) if len(readings) > 1 else found


def _aligned(a: Structure, b: Structure) -> tuple[Structure, Structure]:
    """Converts two structures that state the same in different forms to the same form."""
    if (is_indexed(a) and is_unnamed(b)) or (is_indexed(b) and is_unnamed(a)):  # x_1 = 3, x_2 = 2 and 2, 3
        a, b = (without_names(side) if is_indexed(side) else side for side in (a, b))
    if {a.kind, b.kind} == {"set", "tuple"} and 1 in (len(a.parts), len(b.parts)):  # {(1, 2)}
        a, b = (parse_structure(side.parts[0]) if len(side.parts) == 1 else side for side in (a, b))
    if {a.kind, b.kind} == {"single", "tuple"}:  # a column is a tuple
        a, b = _as_tuple(a, b), _as_tuple(b, a)
    return a, b


def _as_tuple(side: Structure, other: Structure) -> Structure:
    """Returns a column or a named point as a tuple, a matrix as a tuple of rows, in the other's brackets."""
    if side.kind != "single" or other.marks not in (("(", ")"), ("[", "]")):
        return side
    if found := point(side.parts[0]):
        return found
    found = vector(side.parts[0]) or rows(side.parts[0])
    return found._replace(marks=other.marks) if found else side


def _names_agree(a: Structure, b: Structure) -> bool:
    """Whether two inequalities are about the same variable. An interval may be about any."""
    x, y = (label_of(side) if side.kind == "chain" else None for side in (a, b))
    return x is None or y is None or x == y


def _as_text(several: Structure) -> str:
    left, right = {"set": ("⦃", "⦄"), "tuple": several.marks}.get(several.kind, ("", ""))
    return left + (UNION if several.kind == "union" else ",").join(several.parts) + right


def _count_sets(several: Structure) -> int:
    return len({part for part in several.parts if part.startswith("⦃")})


def _require_readable(text: str) -> None:
    """Raises Undecided unless a text is mathematics as a whole. "12, not 13" is no list of two."""
    found = parse_structure(text)
    for part in found.parts:
        if found.kind != "single":
            _require_readable(part)
        elif not parse_quantity(part, decimal_comma=True) and part not in ("∞", "-∞"):
            parse_with_unit(part, "unreadable_answer")
