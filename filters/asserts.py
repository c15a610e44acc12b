"""Python assertions as questions: what a program is asked for, and what its reply has to be.

The comparison is made here, outside of the program's process, wherever an assertion has one of these forms;
L is a plain value, E and F any expressions:

    E == L, E != L, E < L, E in L       the value of E
    abs(E - F) < L, math.isclose(E, F)  the values of E and F
    E is True, E is None                which of the three E is
    E(), E, not E                       whether E is true

"and" parts an assertion in two. Any other has to run beside the program. Replies are texts of
`filters.jail`. Leaves out the running (`filters.sandbox`) and the verdict (`filters.code`).
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from filters.jail import canonical
from filters.sandbox import Check

Holds = Callable[[str], bool]  # whether a reply is what the assertion wants
Question = tuple[Check, Holds]


class Asked(NamedTuple):
    number: int  # of the assertion, from 1
    check: Check
    holds: Holds | None  # None where the statement only has to run
    inside: bool = False  # whether it asserts something that only the program's own process compares


def read_assert(source: str, number: int) -> list[Asked]:
    """What to ask a program for one assertion, which may be several statements.

    Raises SyntaxError, ValueError, RecursionError or MemoryError for what is no Python.
    """
    asked = []
    for statement in ast.parse(source).body:
        for part in _parts(statement.test) if isinstance(statement, ast.Assert) else [None]:
            question = _question(part) if part else None
            if question:
                asked.append(Asked(number, *question))
            else:
                lines = f"assert {ast.unparse(part)}" if part else ast.unparse(statement)
                asked.append(Asked(number, Check("run", lines), None, asserts_something(statement)))
    return asked


def asserts_something(tree: ast.AST) -> bool:
    return any(isinstance(node, ast.Assert) for node in ast.walk(tree))


def used_names(sources: Iterable[str], setup: str) -> set[str]:
    """The names that assertions use and neither they nor their setup give a value."""
    used, given = set[str](), set[str]()
    for tree in map(ast.parse, (*sources, setup)):
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else given).add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                given.add(node.name)
            elif isinstance(node, ast.arg):
                given.add(node.arg)
    return used - given


def _parts(test: ast.expr) -> Iterator[ast.expr]:
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        for value in test.values:
            yield from _parts(value)
    else:
        yield test


def _question(test: ast.expr) -> Question | None:
    """What to ask, and of the reply whether the assertion holds; None for a form that is not known."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        if isinstance(test.operand, ast.Compare):
            known = _question(test.operand)
            return (known[0], lambda reply: not known[1](reply)) if known else None
        return _truth(test.operand, False)
    if isinstance(test, ast.Call):
        return _close(test) or _truth(test, True)
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return _comparison(test.left, test.ops[0], test.comparators[0])
    return _truth(test, True)


def _truth(asked: ast.expr, expected: bool) -> Question | None:
    """Only of a value: whether an expression is true that compares is for the program alone to say."""
    if not isinstance(asked, ast.Call | ast.Name | ast.Attribute | ast.Subscript | ast.Await):
        return None
    wanted = canonical(expected)
    return Check("value", f"not not ({ast.unparse(asked)})"), lambda reply: reply == wanted


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr) -> Question | None:
    if isinstance(op, ast.Is | ast.IsNot):
        return _identity(left, right, isinstance(op, ast.Is))
    if isinstance(op, ast.In | ast.NotIn):
        return _membership(left, right, isinstance(op, ast.In))
    try:
        told = ast.literal_eval(right)
    except (ValueError, TypeError):
        try:
            told = ast.literal_eval(left)
        except (ValueError, TypeError):
            return None
        left, op = right, _MIRRORED.get(type(op), type(op))()
    if isinstance(op, ast.Eq | ast.NotEq):
        expected, same = canonical(told), isinstance(op, ast.Eq)
        return Check("value", ast.unparse(left)), lambda reply: (reply == expected) is same
    return _order(left, _ORDERS[type(op)], told)


_MIRRORED: dict[type, type] = {ast.Lt: ast.Gt, ast.Gt: ast.Lt, ast.LtE: ast.GtE, ast.GtE: ast.LtE}
_ORDERS: dict[type, Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _order(asked: ast.expr, order: Callable[[Any, Any], bool], bound: Any) -> Question | None:
    if not isinstance(bound, int | float):
        return None
    if two := _difference(asked):
        return _numbers(*two, lambda a, b: order(abs(a - b), bound))
    return Check("value", ast.unparse(asked)), _with_numbers(lambda value: order(value, bound), 1)


def _difference(node: ast.expr) -> tuple[ast.expr, ast.expr] | None:
    """E and F of abs(E - F)."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("abs", "math.fabs") and len(node.args) == 1:
        inner = node.args[0]
        if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub):
            return inner.left, inner.right
    return None


def _close(call: ast.Call) -> Question | None:
    if ast.unparse(call.func) != "math.isclose" or len(call.args) != 2:
        return None
    try:
        within = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, TypeError):
        return None
    first, second = call.args
    return _numbers(first, second, lambda a, b: math.isclose(a, b, **within))


def _numbers(first: ast.expr, second: ast.expr, holds: Callable[..., bool]) -> Question:
    return Check("value", f"({ast.unparse(first)}, {ast.unparse(second)})"), _with_numbers(holds, 2)


def _with_numbers(holds: Callable[..., bool], count: int) -> Holds:
    """Of a reply that is one number, or a pair of them; no other value holds."""

    def of_reply(reply: str) -> bool:
        texts = reply[1:-1].split(",") if count > 1 else [reply]
        numbers = [_number(text) for text in texts]
        try:
            return len(numbers) == count and None not in numbers and holds(*numbers)
        except (TypeError, ValueError, ArithmeticError):  # as a complex number is not less than another
            return False

    return of_reply


_FRACTION = re.compile(r"<(-?\d{1,4000})/(\d{1,4000})>")


def _number(text: str) -> int | float | complex | None:
    """The number of a canonical text; a fraction or a decimal as the nearest float."""
    try:
        if text.lstrip("-").startswith("0x"):
            return int(text, 16)
        if fraction := _FRACTION.fullmatch(text):
            return int(fraction[1]) / int(fraction[2])
        return complex(text) if "j" in text else float(text.strip("<>"))
    except (ValueError, ArithmeticError):
        return None


def _identity(asked: ast.expr, told: ast.expr, same: bool) -> Question | None:
    if not isinstance(told, ast.Constant) or not (told.value is None or isinstance(told.value, bool)):
        return None
    which = f"(lambda value: (value is True, value is False, value is None))({ast.unparse(asked)})"
    expected = canonical((told.value is True, told.value is False, told.value is None))
    return Check("value", which), lambda reply: (reply == expected) is same


def _membership(asked: ast.expr, told: ast.expr, within: bool) -> Question | None:
    try:
        whole = ast.literal_eval(told)
    except (ValueError, TypeError):
        return None
    check = Check("value", ast.unparse(asked))
    if isinstance(whole, str):
        return check, lambda reply: _is_text(reply) and (ast.literal_eval(reply) in whole) is within
    if not isinstance(whole, list | tuple | set | dict):
        return None
    members = {canonical(member) for member in whole}
    return check, lambda reply: (reply in members) is within


def _is_text(reply: str) -> bool:
    """Whether it is one string's canonical text, and so read without a risk."""
    return bool(re.fullmatch(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", reply))
