"""Evaluates formulas in floating point or with many digits, in bounded operations and sizes.

A value is a number of any library, or a matrix: a tuple of rows.
"""

from __future__ import annotations

import math
import zlib
from fractions import Fraction
from typing import Any

from filters.formula.functions import FLOATS, Library
from filters.formula.tree import Budget, TooLarge, Tree, UnsupportedFormula

MAX_TERMS = 1000  # of a series
MAX_ROWS = 5  # of a determinant
MAX_LOG_POWER = 1e5  # natural logarithm of the largest power

Values = dict[str, Any]


def evaluate(tree: Tree, values: Values, budget: Budget) -> complex:
    """Returns the value of a formula for these values of its variables.

    Raises UnsupportedFormula, TooLarge, ArithmeticError or ValueError.
    """
    return complex(_number(Evaluation(FLOATS, values, budget).value(tree)))


def _number(value: Any) -> Any:
    if isinstance(value, tuple):
        raise UnsupportedFormula("a matrix instead of a number")
    return value


def find_root(tree: Tree, name: str, values: Values, start: float, budget: Budget) -> complex | None:
    """Returns a zero of the tree in one variable by the secant method, None if it does not converge."""

    def at(x: complex) -> complex:
        return evaluate(tree, values | {name: x}, budget)

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
    except (ArithmeticError, ValueError, UnsupportedFormula):
        return None


_NONLINEAR = frozenset(
    ["sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "exp", "arcsin", "arccos", "arctan"]
)
_SCALES = (1.0, 0.05, 1.0, 0.3)  # a high power may mask small terms at one scale, but not at all of them


def sample_value(name: str, index: int) -> float:
    """Returns a value between 0.3 and 2.7, times a scale, at which no formula is likely to be special."""
    return _SCALES[index % 4] * (0.3 + (zlib.crc32(f"{name}:{index}".encode()) % 999_983) / 999_983 * 2.4)


class Evaluation:
    """Evaluates one tree with the numbers of a library."""

    def __init__(self, library: Library, values: Values, budget: Budget) -> None:
        self._library, self._values, self._budget = library, values, budget
        self.largest = 0.0  # magnitude of an intermediate value
        self.precision_lost = False  # even with many digits
        self._smallest_term: Any = library.get("smallest_term")
        self._smallest_argument: Any = library.get("smallest_argument")

    def value(self, tree: Tree) -> Any:
        """Returns the tree's value, a number or a matrix (a tuple of rows).

        Raises UnsupportedFormula, TooLarge, or for an undefined value ArithmeticError or ValueError.
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
            return tuple(tuple(_number(self.value(part)) for part in row) for row in arguments)
        elif op in ("fn", "apply"):
            result = self._function(arguments[0], [self.value(part) for part in arguments[1:]], op)
        else:
            result = self._operate(op, [self.value(part) for part in arguments])
        if not isinstance(result, tuple):
            size = float(abs(result))
            if not math.isfinite(size):  # cmath.log(0, 2) and products of complex numbers raise nothing
                raise OverflowError("an infinite value")
            self.largest = max(self.largest, size)
        return result

    def _variable(self, name: str) -> Any:
        if name in self._values:
            return self._library["number"](self._values[name])
        if name in ("e", "i", "I"):
            return self._library[name]
        raise UnsupportedFormula(name)

    def _operate(self, op: str, values: list[Any]) -> Any:
        result = values[0]
        if op == "neg":
            return _multiply(result, -1)
        if op == "inv":
            return 1 / _number(result)
        for value in values[1:]:
            if op == "add":
                self._check_precision(result, value)
                result = _add(result, value)
            elif op == "mul":
                result = _multiply(result, value)
            elif op == "div":
                result = _multiply(result, 1 / _number(value))
            else:
                result = self._power(result, value)
        return result

    def _check_precision(self, a: Any, b: Any) -> None:
        """Records whether one of two terms is too small to change their sum."""
        if not self._smallest_term or isinstance(a, tuple) or isinstance(b, tuple) or a == 0 or b == 0:
            return
        self.precision_lost |= not self._smallest_term < abs(a / b) < 1 / self._smallest_term

    def _power(self, base: Any, exponent: Any) -> Any:
        base, exponent = _number(base), _number(exponent)
        if base == 0:
            if exponent.real <= 0 and exponent != 0:
                raise ZeroDivisionError
            return self._library["number"](1 if exponent == 0 else 0)
        if abs(exponent) * abs(self._library["ln"](base)) > MAX_LOG_POWER:
            raise TooLarge
        if self._smallest_argument:
            self.precision_lost |= 0 < abs(exponent) < self._smallest_argument
        return base**exponent

    def _function(self, name: str, values: list[Any], op: str) -> Any:
        if name == "det":
            return _determinant(values[0])
        values = [_number(value) for value in values]
        if op == "apply":  # an arbitrary function, the same for both formulas
            sin = self._library["sin"]
            return sum((sin(sample_value(name, n) * v + n) for n, v in enumerate(values)), start=0)
        if name in ("sin", "cos", "tan", "cot", "sec", "csc") and abs(values[0]) > 1e4:
            self.largest = max(self.largest, 1e10)
        if (low := self._smallest_argument) and name in _NONLINEAR:
            high = 150 if name == "tanh" else 1 / low  # cos(10^-99) and tanh(999) are 1 to many digits
            self.precision_lost |= any(v != 0 and not low < abs(v) < high for v in values)
        if name not in self._library:
            raise UnsupportedFormula(name)
        return self._library[name](*values)

    def _series(self, op: str, variable: Tree, low: Tree, high: Tree, body: Tree) -> Any:
        first, last = (complex(_number(self.value(end))) for end in (low, high))
        if first.imag or last.imag or first.real % 1 or last.real % 1:
            raise UnsupportedFormula("bounds of a series that are no whole numbers")
        if last.real - first.real > MAX_TERMS:
            raise TooLarge
        result: Any = 0 if op == "sum" else 1
        outer, name = self._values, variable[1]
        for n in range(int(first.real), int(last.real) + 1):
            self._budget.spend(2 * self._library["cost"])
            self._values = outer | {name: Fraction(n)}
            value = self.value(body)
            result = _add(result, value) if op == "sum" else _multiply(result, value)
        self._values = outer
        return result


def entries(value: Any) -> list[Any]:
    """Returns the entries of a matrix, or the number itself."""
    return [x for row in value for x in row] if isinstance(value, tuple) else [value]


def shape(value: Any) -> tuple[int, int]:
    """Returns (rows, columns), (0, 0) for a number."""
    return (len(value), len(value[0])) if isinstance(value, tuple) else (0, 0)


def _determinant(matrix: Any) -> Any:
    """Expands the determinant along the first column, which suits small matrices."""
    if not isinstance(matrix, tuple) or len(matrix) != len(matrix[0]):
        raise UnsupportedFormula("a determinant of no square matrix")
    if len(matrix) > MAX_ROWS:
        raise TooLarge
    if len(matrix) == 1:
        return matrix[0][0]
    minors = (
        _determinant(tuple(row[1:] for row in matrix[:n] + matrix[n + 1 :])) for n in range(len(matrix))
    )
    return sum(((-1) ** n * matrix[n][0] * minor for n, minor in enumerate(minors)), start=0)


def _add(a: Any, b: Any) -> Any:
    if not isinstance(a, tuple) and not isinstance(b, tuple):
        return a + b
    if shape(a) != shape(b):
        raise UnsupportedFormula("matrices of different shapes")
    return tuple(tuple(x + y for x, y in zip(r, s, strict=True)) for r, s in zip(a, b, strict=True))


def _multiply(a: Any, b: Any) -> Any:
    if isinstance(a, tuple) and isinstance(b, tuple):
        if len(a[0]) != len(b):
            raise UnsupportedFormula("matrices that do not multiply")
        columns = list(zip(*b, strict=True))
        return tuple(tuple(sum(x * y for x, y in zip(r, c, strict=True)) for c in columns) for r in a)
    if isinstance(a, tuple):
        return tuple(tuple(x * b for x in row) for row in a)
    return _multiply(b, a) if isinstance(b, tuple) else a * b
