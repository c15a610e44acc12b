"""Remote objects: lets assertions in one process use a program in another.

Plain data crosses between the processes as such (`filters.sandbox.wire`). Any other object stays in its
process; the other side holds a `Remote`, which forwards each operation. The program may only call and iterate
over objects of the assertions, so that a function passed to it gives no access to expected values.

A Remote is never compared or combined with plain data in the program's process, where an object that claims
to equal everything would see the expected value. Instead, if its type derives from list, tuple, set or dict,
its content is fetched and compared here. An object of any other type equals no plain data.
"""

from __future__ import annotations

import builtins
import contextlib
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from filters.sandbox.wire import LIMIT, Malformed, Writer, parse, read

Operation = Callable[..., Any]


class Ended(BaseException):
    """The other process ended or broke the protocol. A BaseException, so that no assertion catches it."""


def call(function: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    return function(*arguments, **named)


def content(value: Any) -> Any:
    """Converts an object whose type derives from list, tuple, set or dict to that plain type."""
    if isinstance(value, dict):
        return dict(dict.items(value))
    plain: Any
    for plain in (list, tuple, set, frozenset):
        if isinstance(value, plain):
            return plain(plain.__iter__(value))
    raise TypeError(f"{type(value).__name__} is no plain data")


_BUILTINS = "getattr setattr delattr len str repr hash bool int float complex abs round iter next reversed"
_OPERATORS = "getitem setitem delitem index neg pos invert"
_FORWARDED: dict[str, Operation] = {
    **{name: getattr(builtins, name) for name in _BUILTINS.split()},
    **{name: getattr(operator, name) for name in _OPERATORS.split()},
}
_BINARIES = "eq ne lt le gt ge add sub mul truediv floordiv mod pow matmul and_ or_ xor"
_BINARY: dict[str, Operation] = {name: getattr(operator, name) for name in _BINARIES.split()}
# Operations that the program's process executes, and those that the assertions' process executes.
OF_PROGRAM: dict[str, Operation] = {"call": call, "content": content, "isinstance": isinstance}
OF_PROGRAM |= _FORWARDED | _BINARY
OF_ASSERTIONS: dict[str, Operation] = {"call": call, "iter": iter, "next": next}


class Remote:
    """A proxy for an object in the other process."""

    __slots__ = ("_is",)
    _is: tuple[Peer, int]
    __iter__: Operation  # defined below, like the other operations

    def __init__(self, peer: Peer, number: int) -> None:
        object.__setattr__(self, "_is", (peer, number))

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _ask("call", self, arguments, named)

    def __contains__(self, wanted: Any) -> bool:
        return any(wanted is value or wanted == value for value in cast(Any, self))

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Remote) and bool(_ask("isinstance", value, self))

    def __enter__(self) -> Any:
        return _ask("getattr", self, "__enter__")()

    def __exit__(self, *error: Any) -> Any:
        return _ask("getattr", self, "__exit__")(None, None, None)


def _ask(operation: str, remote: Remote, *arguments: Any) -> Any:
    return remote._is[0].ask(operation, remote, *arguments)


def _forward(name: str) -> Operation:
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


for _name in _FORWARDED:
    setattr(Remote, f"__{_name}__", _forward(_name))
for _name in _BINARY:
    setattr(Remote, f"__{_name.strip('_')}__", _binary(_name))


class Peer:
    """One end of the two pipes between the processes."""

    def __init__(self, reading: int, writing: int, allowed: Mapping[str, Operation]) -> None:
        self._reading, self._writing, self._allowed = reading, writing, allowed
        self._rest = b""
        self._given: list[Any] = []  # objects that the other side refers to by index
        self._number_of: dict[int, int] = {}
        self._remotes: dict[int, Remote] = {}
        self._errors: dict[tuple[str, ...], type[Exception]] = {}
        self.classes: dict[str, type] = {}  # name -> class that both sides define
        self.seen: Any = None  # the last value received, for the evidence
        self.ended = ""  # the reason why the connection ended

    def ask(self, operation: str, *arguments: Any) -> Any:
        """Executes an operation in the other process. Raises what the operation raised, or Ended."""
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
        """Executes operations for the other side until it is gone."""
        with contextlib.suppress(Ended):
            while True:
                self._answer(self._receive())

    def _answer(self, message: dict[str, Any]) -> None:
        arguments, mutable = self._values(message)
        operation = self._allowed.get(str(message.get("operation")))
        if operation is None:
            raise self._end("it requested an operation that is not allowed")
        try:
            self._send("value", [operation(*arguments)], mutable)
        except Exception as e:  # noqa: BLE001 - raised again in the other process
            names = [kind.__name__ for kind in type(e).__mro__]
            self._send("raised", [], {}, names=names, text=str(e)[:1000])

    def _send(self, kind: str, values: list[Any], was: dict[int, Any], **rest: Any) -> list[Any]:
        """Sends a message; returns the values that the entries of its table stand for."""
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
                raise self._end("its message is too long")
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
        """The builtin exception of that name, or a local class in place of the program's own."""
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
        except TypeError:  # an exception with other arguments
            return RuntimeError(text)
