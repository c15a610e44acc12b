"""Serialization of values between processes that do not trust each other. Unlike a pickle, it runs no code.

Plain data crosses by value: None, booleans, numbers, strings, bytes, lists, tuples, sets, dicts, the standard
library's variants of these, fractions, decimals, dates, the plain types themselves, and objects of classes
that both sides define, by their fields. Other objects cross by number. Shared parts and cycles are preserved.

A message is JSON: {"table": [[kind, ...], ...], "values": [...]}. A value is a JSON value or {"at": n}, an
entry of the table. Entries of immutable values come after those of their parts.
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
DEPTH = 5_000  # of nested values
_LONG = 1 << 4096  # larger numbers are written in base 16, which takes linear time

_PLAIN = (bool, int, float, complex, str, bytes, list, tuple, set, frozenset, dict, type(None))
_TYPES: dict[str, type] = {kind.__name__: kind for kind in _PLAIN}
# Only these exact types are written as a list of their parts; the program's subclasses cross by number.
_LISTS: dict[type, str] = {list: "list", deque: "deque", set: "set"}
_DICTS: dict[type, str] = {dict: "dict", Counter: "Counter", OrderedDict: "OrderedDict", defaultdict: "dict"}
_EMPTY: dict[str, Callable[[], Any]] = {
    "list": list, "deque": deque, "set": set, "dict": dict, "Counter": Counter, "OrderedDict": OrderedDict,
    "bytearray": bytearray,
}  # fmt: skip
_MUTABLE = ("object", *_EMPTY)
_ENCODE: dict[type, Callable[[Any], list[Any]]] = {
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
_DECODE: dict[str, Callable[..., Any]] = {
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
    """A message that `Writer` cannot have written."""


class Writer:
    """Serializes values. `classes` are written by their fields; `number` gives the entry of other objects."""

    def __init__(self, classes: Mapping[type, str], number: Callable[[Any], list[Any]]) -> None:
        self._classes, self._number = classes, number
        self._table: list[list[Any]] = []
        self._known: dict[int, int] = {}
        self.kept: list[Any] = []  # the values of the entries, kept alive so that no id is reused
        self._views: list[Any] = []
        self._depth = 0

    def text(self, values: list[Any], sent: Mapping[int, Any], rest: dict[str, Any]) -> bytes:
        """Writes a message of one line: values, and the new state of values in `sent`, received before.

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
        elif kind in _ENCODE:
            self._entry(value, _ENCODE[kind](value))
        else:
            self._entry(value, self._scalar(value) or self._number(value))

    def _scalar(self, value: Any) -> list[Any] | None:
        """The entry of a subclass of a number or string type, which crosses as the plain value."""
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
    """Parses a message. Raises Malformed."""
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
    """Returns the values of a message, and its mutable values by the number of their entry.

    `numbered` returns the object for an entry that crosses by number. Values in `sent` that the message
    contains again are updated in place. Raises Malformed.
    """
    try:
        table = message["table"]
        was = {at: sent[number] for at, number in message["was"] if number >= 0}
        made: list[Any] = []
        for at, entry in enumerate(table):
            made.append(_checked(was[at], entry) if at in was else _made(entry, made, classes, numbered))
        # An object must have its fields before it is hashed into a set or a dict.
        for kinds in (("object",), ("list", "deque", "bytearray"), ("set", "dict", "Counter", "OrderedDict")):
            for entry, value in zip(table, made, strict=True):
                if entry[0] in kinds:
                    _complete(entry, value, made)
        mutable = {at: made[at] for at, entry in enumerate(table) if entry[0] in _MUTABLE}
        return [_at(cell, made) for cell in message["values"]], mutable
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
    if kind in _DECODE:
        return _DECODE[kind](*parts)
    if kind == "object":
        return object.__new__(classes[parts[0]])
    return _at(parts[0], made) if kind == "is" else numbered(entry)


def _checked(value: Any, entry: list[Any]) -> Any:
    """The value sent before. Raises Malformed if the entry has another type."""
    kind = _LISTS.get(type(value)) or _DICTS.get(type(value)) or type(value).__name__
    if kind != (entry[1] if entry[0] == "object" else entry[0]):
        raise Malformed("another type than was sent")
    return value


def _complete(entry: list[Any], value: Any, made: list[Any]) -> None:
    """Fills a mutable value with its content."""
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
            raise Malformed("a field would hide a method")
        fields = vars(value) if kind == "object" else value
        fields.clear()
        update = dict.update if kind == "Counter" else type(fields).update  # Counter.update would add
        update(fields, pairs)


def _at(cell: Any, made: list[Any]) -> Any:
    if isinstance(cell, dict):
        return made[cell["at"]]
    if isinstance(cell, list):
        raise Malformed("a list instead of a value")
    return cell
