"""Adds and multiplies numbers and matrices (tuples of rows), with the numbers of any library.

Raises UnsupportedFormula for operands whose shapes do not match.
"""

from __future__ import annotations

from typing import Any

from filters.formula.tree import TooLarge, UnsupportedFormula

MAX_ROWS = 5  # of a determinant


def entries(value: Any) -> list[Any]:
    """Returns the entries of a matrix, or the number itself."""
    return [x for row in value for x in row] if isinstance(value, tuple) else [value]


def shape(value: Any) -> tuple[int, int]:
    """Returns (rows, columns), (0, 0) for a number."""
    return (len(value), len(value[0])) if isinstance(value, tuple) else (0, 0)


def determinant(matrix: Any) -> Any:
    """Expands the determinant along the first column, which suits small matrices."""
    if not isinstance(matrix, tuple) or len(matrix) != len(matrix[0]):
        raise UnsupportedFormula("a determinant of no square matrix")
    if len(matrix) > MAX_ROWS:
        raise TooLarge
    if len(matrix) == 1:
        return matrix[0][0]
    minors = (determinant(tuple(row[1:] for row in matrix[:n] + matrix[n + 1 :])) for n in range(len(matrix)))
    return sum(((-1) ** n * matrix[n][0] * minor for n, minor in enumerate(minors)), start=0)


def add(a: Any, b: Any) -> Any:
    if not isinstance(a, tuple) and not isinstance(b, tuple):
        return a + b
    if shape(a) != shape(b):
        raise UnsupportedFormula("matrices of different shapes")
    return tuple(tuple(x + y for x, y in zip(r, s, strict=True)) for r, s in zip(a, b, strict=True))


def multiply(a: Any, b: Any) -> Any:
    if isinstance(a, tuple) and isinstance(b, tuple):
        if len(a[0]) != len(b):
            raise UnsupportedFormula("matrices that do not multiply")
        columns = list(zip(*b, strict=True))
        return tuple(tuple(sum(x * y for x, y in zip(r, c, strict=True)) for c in columns) for r in a)
    if isinstance(a, tuple):
        return tuple(tuple(x * b for x in row) for row in a)
    return multiply(b, a) if isinstance(b, tuple) else a * b
