r"""The part of reading a formula that begins with a command or an environment: \frac, \sqrt, \sum, a matrix.

Each function stands behind the command's name, or at the environment's start, and leaves the reader behind
what it read.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from filters.formula.lexer import ALIASES, FUNCTIONS, GREEK, INFINITY, TRIGONOMETRIC, Tree, Unreadable

if TYPE_CHECKING:
    from filters.formula.parser import Reader

_ACCENTS = frozenset(
    ["vec", "hat", "bar", "overline", "tilde", "mathbb", "mathcal", "mathscr", "widehat", "overrightarrow"]
)

_MOST_ARGUMENTS = {"ln": 2, "log": 2, **dict.fromkeys(("max", "min", "gcd", "lcm"), 100)}  # else one


def read_command(reader: Reader) -> Tree:
    """The tree of a command with what it takes. Raises Unreadable for an unknown one."""
    name = reader.next()
    name = ALIASES.get(name, name)
    if name == "frac":
        above, below = reader.argument(), reader.argument()
        if above == ("var", "d") or above[:2] == ("var", "partial"):
            raise Unreadable("a derivative")
        return ("div", above, below)
    if name == "det":
        return ("fn", "det", reader.factor())
    if name == "binom":
        return ("fn", "binom", reader.argument(), reader.argument())
    if name == "sqrt":
        return _root(reader)
    if name in ("sum", "prod"):
        return _series(reader, name)
    if name in ("lfloor", "lceil"):
        tree = reader.sum()
        reader.expect_command("r" + name[1:])
        return ("fn", name[1:], tree)
    if name in FUNCTIONS:
        return _function(reader, name)
    if name == "degrees":
        raise Unreadable(name)
    if name in _ACCENTS:
        below = reader.argument()
        if name in ("overline", "bar") and below[0] not in ("var", "num", "mul"):
            return ("fn", "conj", below)
        name = "bar" if name == "overline" else name
        return ("var", f"{name} {_flat(below)}" + reader.subscript())
    if name == "pi":
        return ("fn", "pi")
    if name in ("infinity", "inf"):
        return INFINITY
    if name in GREEK:
        applied = name[0].isupper()
        name += reader.subscript()
        return ("apply", name, *reader.arguments()) if applied and reader.kind == "(" else ("var", name)
    raise Unreadable(name)


def _root(reader: Reader) -> Tree:
    degree: Tree = ("num", Fraction(2))
    if reader.kind == "[":
        degree = reader._bracketed()
    if reader.kind == "num":  # \sqrt 12, sqrt3: nobody means \sqrt{1}2
        return ("fn", "sqrt", reader.atom(), degree)
    return ("fn", "sqrt", reader.argument(), degree)


def _function(reader: Reader, name: str) -> Tree:
    base: list[Tree] = []
    power: Tree | None = None
    while reader.kind in ("_", "^"):
        if reader.next() == "_":
            base = [reader.argument()]
        else:
            power = reader.exponent()
    arguments = reader.arguments() if reader.kind in ("(", "[", "{") else [_bare_argument(reader)]
    if power == ("neg", ("num", Fraction(1))) and name in TRIGONOMETRIC:
        name, power = f"arc{name}", None
    if not 1 <= len(arguments) + len(base) <= _MOST_ARGUMENTS.get(name, 1):
        raise Unreadable(f"the arguments of {name}")
    tree: Tree = ("fn", name, *arguments, *base)
    return tree if power is None else ("pow", tree, power)


def _bare_argument(reader: Reader) -> Tree:
    r"""\sin 2x: all factors up to an operator or to the next function."""
    minus = reader.kind == "-" and bool(reader.next())
    factors = [reader.factor()]
    while reader.starts_factor() and not (reader.kind == "command" and reader.text in FUNCTIONS - {"sqrt"}):
        factors.append(reader.factor())
    tree = factors[0] if len(factors) == 1 else ("mul", *factors)
    return ("neg", tree) if minus else tree


def _series(reader: Reader, name: str) -> Tree:
    reader.expect("_")
    reader.expect("{")
    variable = read_command(reader) if reader.kind == "command" else reader.letter()
    reader.expect("=")
    low = reader.sum()
    reader.expect("}")
    reader.expect("^")
    high = reader.exponent()
    if INFINITY in (high, high[-1]):
        raise Unreadable("a series")
    return (name, variable, low, high, reader.term())


def read_matrix(reader: Reader) -> Tree:
    """The tree of a matrix, or of the determinant that a vmatrix is."""
    determinant = "{vmatrix}" in reader.next()
    rows: list[tuple[Tree, ...]] = []
    while reader.kind not in ("end", ""):
        row = [reader.sum()]
        while reader.kind == "&":
            reader.next()
            row.append(reader.sum())
        rows.append(tuple(row))
        if reader.kind == "row":
            reader.next()
    reader.expect("end")
    if len({len(row) for row in rows}) != 1:
        raise Unreadable("rows")
    return ("fn", "det", ("matrix", *rows)) if determinant else ("matrix", *rows)


def _flat(tree: Tree) -> str:
    return " ".join(_flat(part) if isinstance(part, tuple) else str(part) for part in tree)
