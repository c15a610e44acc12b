"""Arithmetic with matrices as tuples of rows, beside plain numbers; numbers of any library.

What cannot be added or multiplied raises Unreadable.
"""

from __future__ import annotations

from typing import Any

from filters.formula.lexer import TooLarge, Unreadable

ROWS = 5  # of a determinant


def flat(value: Any) -> list[Any]:
    """The entries, of a number itself."""
    return [x for row in value for x in row] if isinstance(value, tuple) else [value]


def shape(value: Any) -> tuple[int, int]:
    """(rows, columns); (0, 0) for a number."""
    return (len(value), len(value[0])) if isinstance(value, tuple) else (0, 0)


def determinant(matrix: Any) -> Any:
    """By its first column: for the few rows that an answer has."""
    if not isinstance(matrix, tuple) or len(matrix) != len(matrix[0]):
        raise Unreadable("a determinant of no square matrix")
    if len(matrix) > ROWS:
        raise TooLarge
    if len(matrix) == 1:
        return matrix[0][0]
    minors = (determinant(tuple(row[1:] for row in matrix[:n] + matrix[n + 1 :])) for n in range(len(matrix)))
    return sum(((-1) ** n * matrix[n][0] * minor for n, minor in enumerate(minors)), start=0)


def plus(a: Any, b: Any) -> Any:
    """a + b."""
    if not isinstance(a, tuple) and not isinstance(b, tuple):
        return a + b
    if shape(a) != shape(b):
        raise Unreadable("matrices of different shapes")
    return tuple(tuple(x + y for x, y in zip(r, s, strict=True)) for r, s in zip(a, b, strict=True))


def times(a: Any, b: Any) -> Any:
    """a b, of matrices or numbers."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        if len(a[0]) != len(b):
            raise Unreadable("matrices that do not multiply")
        columns = list(zip(*b, strict=True))
        return tuple(tuple(sum(x * y for x, y in zip(r, c, strict=True)) for c in columns) for r in a)
    if isinstance(a, tuple):
        return tuple(tuple(x * b for x in row) for row in a)
    return times(b, a) if isinstance(b, tuple) else a * b
