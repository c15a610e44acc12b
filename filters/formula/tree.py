r"""Formulas as trees, and the limits on what one comparison may cost.

A tree is a tuple of an operation's name and its arguments:

    ("num", Fraction) ("var", name) ("add", *n) ("mul", *n) ("div", a, b) ("inv", a)
    ("pow", a, b) ("neg", a)
    ("fn", name, *arguments)          a known function, see `filters.formula.functions`
    ("apply", name, *arguments)       an undefined function: f(x)
    ("sum" | "prod", variable, from, to, body)
    ("matrix", row, row, ...)         each row a tuple of trees
"""

from __future__ import annotations

from typing import Any

Tree = tuple[Any, ...]
INFINITY: Tree = ("fn", "infinity")
OPERATIONS = 40_000


class UnsupportedFormula(Exception):
    """A text or an operation that the formula package does not support."""


class TooLarge(Exception):
    """A formula that is too costly: too long, too deep or with too large numbers."""


class Budget:
    """Limits one comparison, in operations with a number of a few digits, which take some microseconds."""

    def __init__(self, operations: int = OPERATIONS) -> None:
        self._left = operations

    def spend(self, operations: int) -> None:
        """Subtracts operations. Raises TooLarge if none are left."""
        self._left -= operations
        if self.exhausted:
            raise TooLarge

    @property
    def exhausted(self) -> bool:
        return self._left < 0


def children(tree: Tree) -> list[Tree]:
    """Returns the direct subtrees."""
    if tree[0] == "matrix":
        return [part for row in tree[1:] for part in row]
    return [part for part in tree[1:] if isinstance(part, tuple)]


def variables(tree: Tree) -> set[str]:
    """Returns the free variables. e and i are numbers."""
    if tree[0] == "var":
        return set() if tree[1] in ("e", "i") else {tree[1]}
    if tree[0] in ("sum", "prod"):
        inner = variables(tree[4]) - variables(tree[1])
        return inner | variables(tree[2]) | variables(tree[3])
    return set().union(*map(variables, children(tree)))


def substitute(tree: Tree, name: str, other: Tree) -> Tree:
    """Replaces a variable by another tree."""
    if tree == ("var", name):
        return other
    return tuple(substitute(part, name, other) if isinstance(part, tuple) else part for part in tree)


def canonical_form(tree: Tree) -> str:
    """Returns the tree as text, with the terms of sums and products sorted."""
    parts = [canonical_form(part) if isinstance(part, tuple) else str(part) for part in tree[1:]]
    if tree[0] in ("add", "mul"):
        parts.sort()
    return f"{tree[0]}({','.join(parts)})"


def product(factors: list[Tree]) -> Tree:
    return factors[0] if len(factors) == 1 else ("mul", *factors)


def is_mixed_number(whole: Tree, part: Tree) -> bool:
    r"""Whether 2\frac{1}{2} is a mixed number: a whole number before a proper fraction."""
    if whole[0] != "num" or part[0] != "div" or whole[1].denominator != 1:
        return False
    numerator, denominator = part[1:]
    return bool(numerator[0] == denominator[0] == "num" and 0 < numerator[1] < denominator[1])


def flat_text(tree: Tree) -> str:
    return " ".join(flat_text(part) if isinstance(part, tuple) else str(part) for part in tree)
