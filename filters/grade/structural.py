"""Compare two folded texts part by part: lists, tuples, sets, relations, and in the end numbers and formulas.

What the parts leave undecided raises Open; what would cost too much raises TooLarge.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from filters.formula.lexer import Budget, TooLarge
from filters.grade.formulas import Open, read_formula, same_formulas
from filters.grade.numbers import read_quantity, same_number
from filters.grade.relations import label_of, same_equation, same_relation, values_of
from filters.grade.solutions import (
    indexed,
    interval,
    joined_bounds,
    solutions,
    unnamed,
    values,
    without_conditions,
)
from filters.grade.structure import Structure, expand_signs, structure, vector
from filters.policy import Policy
from filters.text.latex_tables import UNION

_LABEL_WORD = re.compile(r"[A-Z]{2,}|(?=[a-z]*[aeiou])[A-Za-z]{3,}")  # xy is a product
LEAVES = 600  # comparisons of parts


def strip_spaces(text: str) -> str:
    """Without the spaces that say nothing: those beside anything but two letters or two digits."""
    return re.sub(r"(?<![A-Za-z0-9]) | (?![A-Za-z0-9])", "", text) if " " in text else text


class Comparison:
    """One comparison, its bounds, and the deepest layer that it needed."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._leaves = 0
        self._budget = Budget()
        self.layer = "number"

    def same(self, gold: str, given: str) -> bool:
        """Whether two folded texts say the same. Raises Open where that cannot be seen."""
        self._leaves += 1
        if self._leaves > LEAVES:
            raise TooLarge
        if strip_spaces(gold) == strip_spaces(given):
            return True
        a, b = (solutions(self._read(text)) for text in (gold, given))
        if (indexed(a) and unnamed(b)) or (indexed(b) and unnamed(a)):  # roots in any order, beside 2, 3
            a, b = (values(side) if indexed(side) else side for side in (a, b))
        if {a.kind, b.kind} == {"set", "tuple"} and 1 in (len(a.parts), len(b.parts)):  # {(1, 2)}
            a, b = (structure(side.parts[0]) if len(side.parts) == 1 else side for side in (a, b))
        if {a.kind, b.kind} == {"one", "tuple"}:  # a column is a tuple
            a, b = ((vector(side.parts[0]) or side) if side.kind == "one" else side for side in (a, b))
        if a.kind == b.kind == "one":
            return self._same_things(a.parts[0], b.parts[0])
        self.layer = "structure"
        if a.kind == b.kind == "list" or {a.kind, b.kind} <= {"list", "set", "union"}:
            return self._same_parts(a, b)
        if "chain" in (a.kind, b.kind):
            return self._same_chains(a, b)
        return self._same_collections(a, b)

    def _read(self, text: str) -> Structure:
        found = structure(text)
        readings = expand_signs(found.parts[0]) if found.kind == "one" else ()
        if found.kind == "chain" and len(found.parts) == 2 and found.marks == ("=",):
            readings = expand_signs(text)
        if found.kind == "list":
            parts = without_conditions(found.parts)
            if (solved := joined_bounds(text, parts)) is not None:
                return solved
            readings = tuple(reading for part in parts for reading in expand_signs(part))
            return Structure("list", readings) if len(readings) > 1 else structure(readings[0])
        if found.kind == "tuple":
            readings = expand_signs(text)
        if found.kind == "union" and all(structure(part).kind == "set" for part in found.parts):
            return Structure("set", tuple(x for part in found.parts for x in structure(part).parts))
        return Structure("list", readings) if len(readings) > 1 else found

    def _same_collections(self, a: Structure, b: Structure) -> bool:
        """A tuple beside anything, or one thing beside several."""
        if a.kind == b.kind == "tuple":
            return self._same_tuples(a, b)
        if "one" in (a.kind, b.kind):
            one, several = (a, b) if a.kind == "one" else (b, a)
            if len(several.parts) == 1:
                return self.same(one.parts[0], several.parts[0])
            if (number := read_quantity(one.parts[0], decimal_comma=True)) and several.kind == "list":
                other = read_quantity(",".join(several.parts), decimal_comma=True)
                if other and number.decimals is not None and same_number(number, other, self._policy):
                    if len(several.parts[1]) == 1 or (several is a and several.parts[0] != "0"):
                        raise Open("ambiguous")  # 1,2 beside 1.2: a list or a decimal comma
                    return True  # 2,74 beside the reference 2.74
            for part in (*one.parts, *several.parts):
                _require_readable(part)
            (value,) = one.parts
            spellings = set(map(strip_spaces, several.parts))  # 3/4 or 0.75 is one value; 3, 3 are two
            return (
                several.kind == "list" and len(spellings) > 1 and all(self.same(value, p) for p in spellings)
            )
        ordered = len(a.parts) == len(b.parts) and all(map(self.same, a.parts, b.parts))
        marks = {side.marks for side in (a, b) if side.kind == "tuple" and len(side.parts) == 2}
        if ordered and ("list" not in (a.kind, b.kind) or ("[", "]") in marks):
            raise Open("ambiguous")  # (1, 2) beside {1, 2}: an interval, a point or a set
        return ordered and not marks & {("[", ")"), ("(", "]")}

    def _same_tuples(self, a: Structure, b: Structure) -> bool:
        if len(a.parts) != len(b.parts):
            return False
        if len(a.parts) == 2 and a.marks != b.marks:
            return False
        return all(map(self.same, a.parts, b.parts))

    def _same_parts(self, a: Structure, b: Structure) -> bool:
        """Lists, sets, unions: each part of one is a part of the other."""
        labels = [{label_of(part) for part in side.parts} for side in (a, b)]
        named = [len(side - {None}) > 1 for side in labels]
        if a.kind == b.kind == "list" and (self._policy.ordered_lists or named[0] != named[1]):
            return len(a.parts) == len(b.parts) and all(map(self.same, a.parts, b.parts))
        if a.kind == b.kind == "list":
            return self._same_lists(a.parts, b.parts)
        return self._contains(a, b) and self._contains(b, a)

    def _same_lists(self, a: tuple[str, ...], b: tuple[str, ...]) -> bool:
        """The same things as often, in whatever order; open where a part is like none and may be like one."""
        if len(a) != len(b):
            return False
        for part in a:
            at = self._first_same((part, other) for other in b)
            if at is None:
                return False
            b = b[:at] + b[at + 1 :]
        return True

    def _contains(self, a: Structure, b: Structure) -> bool:
        """Whether every part of `b` is in `a`; open where a part is in none and may be in one."""
        return all(self._first_same((other, part) for other in a.parts) is not None for part in b.parts)

    def _first_same(self, pairs: Iterable[tuple[str, str]]) -> int | None:
        """The place of the first pair that says the same, None where none does. Raises Open where one may."""
        undecided: Open | None = None
        for at, (one, other) in enumerate(pairs):
            try:
                if self.same(one, other):
                    return at
            except Open as e:
                undecided = e
        if undecided:
            raise undecided
        return None

    def _same_chains(self, a: Structure, b: Structure) -> bool:
        """Equations and inequalities, beside each other or beside what they are solved to."""
        readings = [interval(side) if side.kind == "chain" else side for side in (a, b)]
        if all(readings) and any(side.kind == "chain" for side in (a, b)):
            x, y = readings
            assert x is not None
            assert y is not None
            if _names_agree(a, b) and x.kind == y.kind:
                return self._same_tuples(x, y) if x.kind == "tuple" else self._same_parts(x, y)
        if a.kind == b.kind == "chain":
            return self._same_relations(a, b)
        chain, other, swapped = (a, b, False) if a.kind == "chain" else (b, a, True)
        texts = values_of(chain)
        if texts is None:
            raise Open("ambiguous")
        beside = other.parts[0] if other.kind == "one" else _written(other)
        return any(self.same(beside, t) if swapped else self.same(t, beside) for t in texts)

    def _same_relations(self, a: Structure, b: Structure) -> bool:
        x, y = label_of(a), label_of(b)
        values = values_of(a), values_of(b)
        if values[0] and values[1] and x is not None and y is not None:
            equal = any(self.same(p, q) for p in values[0] for q in values[1])
            if x == y or (not equal and len(a.parts) > 2):
                return equal
            words = [bool(_LABEL_WORD.fullmatch(label)) for label in (x, y)]
            if equal and all(words) and x.casefold() != y.casefold():
                raise Open("ambiguous")  # AB = 4 beside CD = 4
            if equal and (any(words) or ("(" in x) != ("(" in y)):
                return True  # a label in words, or f(x), beside a letter
        self.layer = "formula"
        verdict = (
            same_equation(a, b, self._budget)
            if set(a.marks + b.marks) <= {"="}
            else same_relation(a, b, self._budget)
        )
        if verdict is None:
            if values[0] and values[1] and (x is None or y is None):
                return any(self.same(p, q) for p in values[0] for q in values[1])
            raise Open("ambiguous")
        return verdict

    def _same_things(self, gold: str, given: str) -> bool:
        a, b = (read_quantity(text, decimal_comma=True) for text in (gold, given))
        if a and b:
            if (equal := same_number(a, b, self._policy)) is None:
                raise Open("units_differ" if a.unit and b.unit else "ambiguous")
            return equal
        self.layer = "formula"
        return same_formulas((gold, given), (a, b), self._policy, self._budget)


def _names_agree(a: Structure, b: Structure) -> bool:
    """Two inequalities speak of the same variable; an interval speaks of any."""
    x, y = (label_of(side) if side.kind == "chain" else None for side in (a, b))
    return x is None or y is None or x == y


def _written(several: Structure) -> str:
    """A structure as text again."""
    inner = ",".join(several.parts)
    if several.kind == "tuple":
        return several.marks[0] + inner + several.marks[1]
    return (
        f"⦃{inner}⦄"
        if several.kind == "set"
        else UNION.join(several.parts)
        if several.kind == "union"
        else inner
    )


def _require_readable(text: str) -> None:
    """Raise Open unless a text is all mathematics: "12, not 13" is no list of two."""
    found = structure(text)
    for part in found.parts:
        if found.kind != "one":
            _require_readable(part)
        elif not read_quantity(part, decimal_comma=True) and part not in ("∞", "-∞"):
            read_formula(part, "unreadable_answer")
