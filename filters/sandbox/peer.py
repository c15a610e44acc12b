"""Two processes that use each other's objects: how assertions use a program that is in another process.

The assertions run in one process, the program in another, and between them goes data
(`filters.sandbox.wire`). What is no plain data stays where it is; the other side holds a `Remote`, which asks
for each thing that is done to it. The assertions' side lets its objects be called and iterated over, no more:
a function that they pass must not be a way to what they expect.

A Remote is never compared, or reckoned, with plain data over there: an object that says it equals everything
would see what is expected of it. If its type is a kind of list, tuple, set or dictionary, its content comes
over here for that; of any other type, it equals no plain data.
"""

from __future__ import annotations

import builtins
import contextlib
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from filters.sandbox.wire import LIMIT, Malformed, Writer, parse, read

Operation = Callable[..., Any]


class Ended(BaseException):
    """The other process is gone, or says what no message is. No assertion may catch it as an exception."""


def call(function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return function(*arguments, **named)


def content(value: Any) -> Any:
    """A list, tuple, set or dictionary of a type of the program's own, as one of the plain types."""
    if isinstance(value, dict):
        return dict(dict.items(value))
    plain: Any
    for plain in (list, tuple, set, frozenset):
        if isinstance(value, plain):
            return plain(plain.__iter__(value))
    raise TypeError(f"{type(value).__name__} is no plain data")


_UNARY: dict[str, Operation] = {
    "len": len, "str": str, "repr": repr, "hash": hash, "bool": bool, "int": int, "float": float,
    "complex": complex, "index": operator.index, "abs": abs, "neg": operator.neg, "pos": operator.pos,
    "invert": operator.invert, "round": round, "iter": iter, "next": next, "reversed": reversed,
}  # fmt: skip
_COMPARED = ("eq", "ne", "lt", "le", "gt", "ge")
_RECKONED = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor")
_BINARY: dict[str, Operation] = {name: getattr(operator, name) for name in (*_COMPARED, *_RECKONED)}
# What may be asked of the process in which the program is, and of that of the assertions.
OF_PROGRAM: dict[str, Operation] = {
    "call": call, "content": content, "getattr": getattr, "setattr": setattr, "delattr": delattr,
    "getitem": operator.getitem, "setitem": operator.setitem, "delitem": operator.delitem,
    "isinstance": isinstance, **_UNARY, **_BINARY,
}  # fmt: skip
OF_ASSERTIONS: dict[str, Operation] = {"call": call, "iter": iter, "next": next}


class Remote:
    """An object of the other process."""

    __slots__ = ("_is",)

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_is", (peer, number))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _ask("call", self, arguments, named)

    def __getattr__(self, name: str) -> Any:
        return _ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        _ask("delattr", self, name)

    def __getitem__(self, key: Any) -> Any:
        return _ask("getitem", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _ask("setitem", self, key, value)

    def __delitem__(self, key: Any) -> None:
        _ask("delitem", self, key)

    def __iter__(self) -> Any:
        return _ask("iter", self)

    def __contains__(self, wanted: Any) -> bool:
        return any(wanted is value or wanted == value for value in self)

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and bool(_ask("isinstance", value, self))

    def __enter__(self) -> Any:
        return self.__getattr__("__enter__")()

    def __exit__(self, *error: Any) -> Any:
        return self.__getattr__("__exit__")(None, None, None)


def _ask(operation: str, remote: Remote, *arguments: Any) -> Any:
    return remote._is[0].ask(operation, remote, *arguments)


def _unary(name: str) -> Operation:
    return lambda self, *arguments: _ask(name, self, *arguments)


def _binary(name: str) -> Operation:
    def operation(self: Remote, other: Any) -> Any:
        if isinstance(other, Remote):
            return _ask(name, self, other)
        try:
            return _BINARY[name](_ask("content", self), other)
        except TypeError:
            return NotImplemented

    return operation


for _name in _UNARY:
    setattr(Remote, f"__{_name}__", _unary(_name))
for _name in _BINARY:
    setattr(Remote, f"__{_name.strip('_')}__", _binary(_name))


class Peer:
    """This process's end of two pipes to the other."""

    def __init__(self, reading: int, writing: int, allowed: Mapping[str, Operation]) -> None:
        self._reading, self._writing, self._allowed = reading, writing, allowed
        self._rest = b""
        self._given: list[Any] = []  # what the other side holds by number
        self._number_of: dict[int, int] = {}
        self._remotes: dict[int, Remote] = {}
        self._errors: dict[tuple[str, ...], type[Exception]] = {}
        self.classes: dict[str, type] = {}  # by name, of which both sides have one
        self.seen: Any = None  # the last value that came over, to be told to people
        self.ended = ""  # why nothing more can be asked

    def ask(self, operation: str, *arguments: Any) -> Any:
        """What the other side answers. Raises what the operation raised, or Ended."""
        sent = self._send("ask", list(arguments), {}, operation=operation)
        while (message := self._receive())["kind"] == "ask":
            self._answer(message)
        if message["kind"] == "raised":
            raise self._exception(message)
        values, _ = self._values(message, sent)
        if len(values) != 1:
            raise self._end("not a message")
        self.seen = values[0]
        return self.seen

    def serve(self) -> None:
        """Answer until the other side is gone."""
        with contextlib.suppress(Ended):
            while True:
                self._answer(self._receive())

    def _answer(self, message: dict[str, Any]) -> None:
        arguments, changeable = self._values(message)
        operation = self._allowed.get(str(message.get("operation")))
        if operation is None:
            raise self._end("it asked for what is not allowed")
        try:
            self._send("value", [operation(*arguments)], changeable)
        except Exception as e:  # noqa: BLE001 - it is the asker's to deal with
            names = [kind.__name__ for kind in type(e).__mro__]
            self._send("raised", [], {}, names=names, text=str(e)[:1000])

    def _send(self, kind: str, values: list[Any], was: dict[int, Any], **rest: Any) -> list[Any]:
        """Send a message; what its entries stand for."""
        writer = Writer({kind: name for name, kind in self.classes.items()}, self._number)
        text = writer.text(values, was, {"kind": kind, **rest})
        try:
            while text:
                text = text[os.write(self._writing, text) :]
        except OSError:
            raise self._end("it has ended") from None
        return writer.kept

    def _receive(self) -> dict[str, Any]:
        line = bytearray(self._rest)
        end = line.find(b"\n")
        while end < 0:
            if len(line) > LIMIT:
                raise self._end("it said too much")
            start = len(line)
            if not (more := os.read(self._reading, 1 << 16)):
                raise self._end("it has ended")
            line += more
            end = line.find(b"\n", start)
        self._rest = bytes(line[end + 1 :])
        try:
            message = parse(bytes(line[:end]))
        except Malformed as e:
            raise self._end(str(e)) from None
        if message.get("kind") not in ("ask", "value", "raised"):
            raise self._end("not a message")
        return message

    def _values(self, message: dict[str, Any], sent: Sequence[Any] = ()) -> tuple[list[Any], dict[int, Any]]:
        try:
            return read(message, self.classes, self._numbered, sent)
        except Malformed as e:
            raise self._end(str(e)) from None

    def _end(self, why: str) -> Ended:
        self.ended = self.ended or why
        return Ended(why)

    def _number(self, value: Any) -> list[Any]:
        if isinstance(value, Remote):
            return ["yours", value._is[1]]
        if isinstance(value, type) and issubclass(value, Exception):
            return ["error", *(kind.__name__ for kind in value.__mro__)]
        if id(value) not in self._number_of:
            self._number_of[id(value)] = len(self._given)
            self._given.append(value)
        return ["mine", self._number_of[id(value)]]

    def _numbered(self, entry: list[Any]) -> Any:
        kind, *parts = entry
        if kind == "error":
            return self._error(tuple(map(str, parts[:100])))
        (number,) = parts
        if kind == "yours":
            return self._given[number]
        if kind != "mine" or type(number) is not int:
            raise Malformed("not a message")
        return self._remotes.setdefault(number, Remote(self, number))

    def _error(self, names: tuple[str, ...]) -> type[Exception]:
        """Python's own exception of that name; of the program's own, a class that stands for it here."""
        if not names:
            return Exception
        kind = getattr(builtins, names[0], None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            return kind
        if names not in self._errors:
            self._errors[names] = type(names[0], (self._error(names[1:]),), {})
        return self._errors[names]

    def _exception(self, message: dict[str, Any]) -> Exception:
        text = str(message.get("text"))
        try:
            return self._error(tuple(map(str, message.get("names", ())[:100])))(text)
        except TypeError:  # one that takes other arguments
            return RuntimeError(text)
