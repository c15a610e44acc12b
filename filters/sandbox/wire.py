"""Values as text, to cross from a process that nobody trusts: plain data as it is, anything else by number.

Plain data are None, booleans, numbers, texts, bytes, lists, tuples, sets, dictionaries, the standard
library's kinds of these, fractions, decimals, dates, the plain types themselves; and objects of classes that
both sides have, by their fields. Shared parts stay shared, and cycles stay cycles. Nothing that is read can
run code, as a pickle can.

A text is JSON: {"table": [[kind, ...], ...], "values": [...]}. A value is itself where JSON has it, or
{"at": n}, an entry of the table; an entry comes after those it is made of, but for what can be changed.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, ItemsView, KeysView, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

LIMIT = 8 << 20  # bytes of a message
DEPTH = 5_000  # of values within values
_LONG = 1 << 4096  # numbers from here on are written in base 16, which takes no time

_PLAIN: tuple[type, ...] = (
    bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, type(None),
)  # fmt: skip
_TYPES: dict[str, type] = {kind.__name__: kind for kind in _PLAIN}
# Of a type exactly, as a list of their parts; a subclass of the program's own goes by number.
_LISTS: dict[type, str] = {list: "list", deque: "deque", set: "set"}
_DICTS: dict[type, str] = {dict: "dict", Counter: "Counter", OrderedDict: "OrderedDict", defaultdict: "dict"}
_EMPTY: dict[str, Callable[[], Any]] = {
    "list": list, "deque": deque, "set": set, "dict": dict, "Counter": Counter, "OrderedDict": OrderedDict,
    "bytearray": bytearray,
}  # fmt: skip
_CHANGEABLE = ("object", *_EMPTY)
_MADE_OF: dict[type, Callable[[Any], list[Any]]] = {
    bytes: lambda v: ["bytes", v.hex()],
    bytearray: lambda v: ["bytearray", v.hex()],
    memoryview: lambda v: ["bytes", bytes(v).hex()],
    complex: lambda v: ["complex", v.real, v.imag],
    range: lambda v: ["range", v.start, v.stop, v.step],
    Fraction: lambda v: ["Fraction", hex(v.numerator), hex(v.denominator)],
    Decimal: lambda v: ["Decimal", str(v)],
    date: lambda v: ["date", v.isoformat()],
    datetime: lambda v: ["datetime", v.isoformat()],
    timedelta: lambda v: ["timedelta", v.days, v.seconds, v.microseconds],
}
_MAKE: dict[str, Callable[..., Any]] = {
    "bytes": bytes.fromhex,
    "complex": complex,
    "range": range,
    "Fraction": lambda above, below: Fraction(int(above, 16), int(below, 16)),
    "Decimal": Decimal,
    "date": date.fromisoformat,
    "datetime": datetime.fromisoformat,
    "timedelta": timedelta,
    "type": lambda name: _TYPES[name],
    "int": lambda text: int(text, 16),
}


class Malformed(ValueError):
    """A message that no sender of ours writes."""


class Writer:
    """Writes values; `classes` go by their fields, `number` gives all else an entry of its own."""

    def __init__(self, classes: Mapping[type, str], number: Callable[[Any], list[Any]]) -> None:
        self._classes, self._number = classes, number
        self._table: list[list[Any]] = []
        self._known: dict[int, int] = {}
        self.kept: list[Any] = []  # what each entry stands for; it lives on, or its id would be another's
        self._views: list[Any] = []
        self._depth = 0

    def text(self, values: list[Any], sent: Mapping[int, Any], rest: dict[str, Any]) -> bytes:
        """A message of one line: values, and what has become of those that the other side sent before.

        Raises ValueError for values that are nested too deeply.
        """
        limit = sys.getrecursionlimit()
        try:
            sys.setrecursionlimit(limit + 4 * DEPTH)
            cells = [self._cell(value) for value in values]
            was = [[self._cell(value)["at"], number] for number, value in sent.items()]
        finally:
            sys.setrecursionlimit(limit)
        message = {"table": self._table, "values": cells, "was": was, **rest}
        return json.dumps(message, check_circular=False).encode() + b"\n"

    def _cell(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind in (bool, str, float):
            return value
        if isinstance(value, int) and -_LONG < value < _LONG:
            return int(value)
        if id(value) not in self._known:
            self._depth += 1
            if self._depth > DEPTH:
                raise ValueError("a value is nested too deeply")
            self._add(value, kind)
            self._depth -= 1
        return {"at": self._known[id(value)]}

    def _add(self, value: Any, kind: type) -> None:
        if kind in _LISTS:
            self._fill(self._entry(value, [_LISTS[kind]]), value)
        elif kind in _DICTS:
            self._fill(self._entry(value, [_DICTS[kind]]), _flat(value))
        elif kind in self._classes and hasattr(value, "__dict__"):
            self._fill(self._entry(value, ["object", self._classes[kind]]), _flat(vars(value)))
        elif kind in (tuple, frozenset):
            cells: list[Any] = []
            for part in value:
                cells.append(self._cell(part))
            self._entry(value, [kind.__name__, *cells])
        elif isinstance(value, KeysView | ItemsView):
            self._cell(found := set(value))
            self._known[id(value)] = self._known[id(found)]
            self._views.append(value)
        elif kind is type and value in _PLAIN:
            self._entry(value, ["type", value.__name__])
        elif kind in _MADE_OF:
            self._entry(value, _MADE_OF[kind](value))
        else:
            self._entry(value, self._scalar(value) or self._number(value))

    def _scalar(self, value: Any) -> list[Any] | None:
        """What equals a number or a text, though its type is a kind of its own, goes as that."""
        if isinstance(value, int):
            return ["int", hex(value)]
        if isinstance(value, float):
            return ["is", float(value)]
        return ["is", str.__str__(value)] if isinstance(value, str) else None

    def _entry(self, value: Any, entry: list[Any]) -> list[Any]:
        self._known[id(value)] = len(self._table)
        self.kept.append(value)
        self._table.append(entry)
        return entry

    def _fill(self, entry: list[Any], parts: Any) -> None:
        for part in list(parts):
            entry.append(self._cell(part))


def _flat(mapping: Mapping[Any, Any]) -> list[Any]:
    return [part for item in list(mapping.items()) for part in item]


def parse(line: bytes) -> dict[str, Any]:
    """A message as JSON. Raises Malformed."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise Malformed("not a message") from None
    if not isinstance(message, dict):
        raise Malformed("not a message")
    return message


def read(
    message: dict[str, Any],
    classes: Mapping[str, type],
    numbered: Callable[[list[Any]], Any],
    sent: Sequence[Any] = (),
) -> tuple[list[Any], dict[int, Any]]:
    """The values of a message, and by the number of its entry what can be changed of them.

    `numbered` finds what stands for an entry that the sender gave a number of its own; of what was `sent`, by
    number, what the message says it has become is changed in place. Raises Malformed.
    """
    try:
        table = message["table"]
        was = {at: sent[number] for at, number in message["was"] if number >= 0}
        made: list[Any] = []
        for at, entry in enumerate(table):
            made.append(_checked(was[at], entry) if at in was else _made(entry, made, classes, numbered))
        # What is hashed must have its fields before it enters a set or a dictionary.
        for kinds in (("object",), ("list", "deque", "bytearray"), ("set", "dict", "Counter", "OrderedDict")):
            for entry, value in zip(table, made, strict=True):
                if entry[0] in kinds:
                    _complete(entry, value, made)
        changeable = {at: made[at] for at, entry in enumerate(table) if entry[0] in _CHANGEABLE}
        return [_at(cell, made) for cell in message["values"]], changeable
    except Malformed:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as e:
        raise Malformed(f"not a message: {type(e).__name__}") from None


def _made(
    entry: list[Any], made: list[Any], classes: Mapping[str, type], numbered: Callable[[list[Any]], Any]
) -> Any:
    kind, *parts = entry
    if kind in _EMPTY:
        return _EMPTY[kind]()
    if kind in ("tuple", "frozenset"):
        values = [_at(part, made) for part in parts]
        return tuple(values) if kind == "tuple" else frozenset(values)
    if kind in _MAKE:
        return _MAKE[kind](*parts)
    if kind == "object":
        return object.__new__(classes[parts[0]])
    return _at(parts[0], made) if kind == "is" else numbered(entry)


def _checked(value: Any, entry: list[Any]) -> Any:
    """What was sent, if it can have become what the entry says."""
    kind = _LISTS.get(type(value)) or _DICTS.get(type(value)) or type(value).__name__
    if kind != (entry[1] if entry[0] == "object" else entry[0]):
        raise Malformed("another type than was sent")
    return value


def _complete(entry: list[Any], value: Any, made: list[Any]) -> None:
    """Give what can be changed its content."""
    kind, *cells = entry
    if kind == "bytearray":
        value[:] = bytes.fromhex(cells[0])
        return
    parts = [_at(cell, made) for cell in cells[kind == "object" :]]
    if kind in ("list", "deque"):
        value.clear()
        value.extend(parts)
    elif kind == "set":
        value.clear()
        value.update(parts)
    else:
        pairs = dict(zip(parts[::2], parts[1::2], strict=True))
        if kind == "object" and any(callable(getattr(type(value), str(name), None)) for name in pairs):
            raise Malformed("a field before a method would be the sender's code")
        fields = vars(value) if kind == "object" else value
        fields.clear()
        update = dict.update if kind == "Counter" else type(fields).update  # a Counter's would add
        update(fields, pairs)


def _at(cell: Any, made: list[Any]) -> Any:
    if isinstance(cell, dict):
        return made[cell["at"]]
    if isinstance(cell, list):
        raise Malformed("a list where a value should be")
    return cell
