"""The value of a formula, in floating point or with many digits; bounded in operations and in size."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from filters.formula.functions import FLOATS, Library
from filters.formula.lexer import Budget, TooLarge, Tree, Unreadable
from filters.formula.matrices import determinant, plus, times

TERMS = 1000  # of a sum or product that is written with its sign
MAGNITUDE = 1e5  # natural logarithm of the largest power

Values = dict[str, Any]


def value_at(tree: Tree, values: Values, budget: Budget) -> complex:
    """The value where the variables have these.

    Raises Unreadable, TooLarge, ArithmeticError or ValueError.
    """
    value = Evaluation(FLOATS, values, budget).value(tree)
    if isinstance(value, tuple):
        raise Unreadable("a matrix")
    return complex(value)


def root(tree: Tree, name: str, values: Values, start: float, budget: Budget) -> complex | None:
    """A zero of the tree in one variable, by the secant method; None where it finds none."""

    def at(x: complex) -> complex:
        return value_at(tree, values | {name: x}, budget)

    try:
        a, b = complex(start), complex(start * 1.1 + 0.1)
        fa, fb = at(a), at(b)
        for _ in range(40):
            if abs(fb) < 1e-13:
                return b
            if fa == fb:
                return None
            a, b, fa = b, b - fb * (b - a) / (fb - fa), fb
            fb = at(b)
        return b if abs(fb) < 1e-9 else None
    except (ArithmeticError, ValueError, Unreadable):
        return None


_CURVED = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp", "arcsin", "arccos", "arctan"]
)
_SCALES = (1.0, 0.05, 1.0, 0.3)  # a high power hides beside it what is small at one scale, not at all of them


def spread(name: str, index: int) -> float:
    """A value between 0.3 and 2.7, or smaller by a scale, that no formula is likely to be special at."""
    return _SCALES[index % 4] * (0.3 + (zlib.crc32(f"{name}:{index}".encode()) % 999_983) / 999_983 * 2.4)


class Evaluation:
    """One walk through a tree, with floating point or with mpmath."""

    def __init__(self, library: Library, values: Values, budget: Budget) -> None:
        self._library, self._values, self._budget = library, values, budget
        self.largest = 0.0  # magnitude met on the way
        # Whether many digits were too few for all that was added or put into a function.
        self.lost = False
        self._least: Any = library.get("least")
        self._tiny: Any = library.get("tiny")

    def value(self, tree: Tree) -> Any:
        """The tree's value, a number or a matrix (a tuple of rows).

        Raises Unreadable for what is no number, TooLarge, and ArithmeticError or ValueError where undefined.
        """
        self._budget.spend(self._library["cost"])
        op, *arguments = tree
        if op == "num":
            result = self._library["number"](arguments[0])
        elif op == "var":
            result = self._variable(arguments[0])
        elif op in ("sum", "prod"):
            return self._series(op, *arguments)
        elif op == "matrix":
            return tuple(tuple(self._number(part) for part in row) for row in arguments)
        elif op in ("fn", "apply"):
            result = self._function(arguments[0], [self.value(part) for part in arguments[1:]], op)
        else:
            result = self._operate(op, [self.value(part) for part in arguments])
        if not isinstance(result, tuple):
            self.largest = max(self.largest, float(abs(result)))
        return result

    def _number(self, tree: Tree) -> Any:
        value = self.value(tree)
        if isinstance(value, tuple):
            raise Unreadable("a matrix where a number should be")
        return value

    def _variable(self, name: str) -> Any:
        if name in self._values:
            return self._library["number"](self._values[name])
        if name in ("e", "i", "I"):
            return self._library[name]
        raise Unreadable(name)

    def _operate(self, op: str, values: list[Any]) -> Any:
        result = values[0]
        if op == "neg":
            return times(result, -1)
        if op == "inv":
            return self._inverse(result)
        for value in values[1:]:
            if op == "add":
                if self._least:
                    self._watch(result, value)
                result = plus(result, value)
            elif op == "mul":
                result = times(result, value)
            elif op == "div":
                result = times(result, self._inverse(value))
            else:
                result = self._power(result, value)
        return result

    def _inverse(self, value: Any) -> Any:
        if isinstance(value, tuple):
            raise Unreadable("the inverse of a matrix")
        return 1 / value

    def _watch(self, a: Any, b: Any) -> None:
        """See whether one of two numbers that are added is too small to show."""
        if isinstance(a, tuple) or isinstance(b, tuple) or a == 0 or b == 0:
            return
        self.lost |= not self._least < abs(a / b) < 1 / self._least

    def _power(self, base: Any, exponent: Any) -> Any:
        if isinstance(base, tuple) or isinstance(exponent, tuple):
            raise Unreadable("a power of a matrix")
        if base == 0:
            if exponent.real <= 0 and exponent != 0:
                raise ZeroDivisionError
            return self._library["number"](1 if exponent == 0 else 0)
        if abs(exponent) * abs(self._library["ln"](base)) > MAGNITUDE:
            raise TooLarge
        if self._tiny:
            self.lost |= 0 < abs(exponent) < self._tiny
        return base**exponent

    def _function(self, name: str, values: list[Any], op: str) -> Any:
        if name == "det":
            return determinant(values[0])
        if any(isinstance(value, tuple) for value in values):
            raise Unreadable("a function of a matrix")
        if op == "apply":  # any function will do, if it is the same one on both sides
            return sum((self._library["sin"](spread(name, n) * v + n) for n, v in enumerate(values)), start=0)
        if name in ("sin", "cos", "tan", "cot", "sec", "csc") and abs(values[0]) > 1e4:
            self.largest = max(self.largest, 1e10)
        if self._tiny and name in _CURVED:  # cos(10^-99) is 1 to many digits, and so is tanh(999)
            most = 150 if name == "tanh" else 1 / self._tiny
            self.lost |= any(v != 0 and not self._tiny < abs(v) < most for v in values)
        found: Callable[..., Any] | None = self._library.get(name)
        if found is None:
            raise Unreadable(name)
        return found(*values)

    def _series(self, op: str, variable: Tree, low: Tree, high: Tree, body: Tree) -> Any:
        first, last = (complex(self._number(end)) for end in (low, high))
        if first.imag or last.imag or first.real % 1 or last.real % 1:
            raise Unreadable("the ends of a sum")
        if last.real - first.real > TERMS:
            raise TooLarge
        result: Any = 0 if op == "sum" else 1
        kept, name = self._values, variable[1]
        for n in range(int(first.real), int(last.real) + 1):
            self._budget.spend(2 * self._library["cost"])
            self._values = kept | {name: Fraction(n)}
            value = self.value(body)
            result = plus(result, value) if op == "sum" else times(result, value)
        self._values = kept
        return result
