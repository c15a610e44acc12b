"""The code that runs in a sandboxed process: a program, or the assertions about a program.

The assertions run in a process of their own. It requests each name they use from the program's process and
gets data or a `Remote` (`filters.sandbox.peer`). Only that process reads the assertions, after the fork, so
the program's process never contains expected values.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import json
import os
import socket
import sys
import types
from typing import Any, NamedTuple, NoReturn

from filters.sandbox.peer import OF_ASSERTIONS, OF_PROGRAM, Ended, Peer

READING, WRITING = 3, 4  # descriptors of the pipes to and from the other process
ASSERTIONS, REPORT = 5, 6  # in the process of the assertions


class Role(NamedTuple):
    """What a sandboxed process runs."""

    kind: str  # "program", "answering" (a program with assertions) or "asserting"
    setup: str
    code: str

    def run(self) -> None:
        """Runs the code; an exception of the program ends the process as it would end Python."""
        sys.argv = ["answer.py"]
        builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # as `site` would
        socket.socketpair = _pipe_pair  # type: ignore[assignment]
        if self.kind == "asserting":
            _assert()
        space = _module("__main__" if self.kind == "program" else "answer")
        exec(compile(self.setup, "<setup>", "exec"), space)
        classes = _classes(space)
        exec(compile(self.code, "<answer>", "exec"), space)
        if self.kind == "answering":

            def find(name: str) -> Any:
                if name in space:
                    return space[name]
                raise NameError(f"name {name!r} is not defined")

            peer = Peer(READING, WRITING, {**OF_PROGRAM, "find": find})
            peer.classes = classes
            peer.serve()


class _PipeEnd(io.FileIO):
    """An end of a pipe with the methods of a socket that asyncio uses to wake its event loop."""

    recv, send = io.FileIO.read, io.FileIO.write

    def setblocking(self, flag: bool) -> None:
        os.set_blocking(self.fileno(), flag)


def _pipe_pair() -> tuple[_PipeEnd, _PipeEnd]:
    """Replaces socket.socketpair, which the sandbox denies: an end to read from and one to write to."""
    reading, writing = os.pipe()
    return _PipeEnd(reading, "rb"), _PipeEnd(writing, "wb")


def _module(name: str) -> dict[str, Any]:
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module.__dict__


def _classes(space: dict[str, Any]) -> dict[str, type]:
    """The classes that the setup defines in both processes."""
    own = space["__name__"]
    return {k: v for k, v in space.items() if isinstance(v, type) and v.__module__ == own}


def _assert() -> NoReturn:
    """Runs the assertions in order and reports each result, until one fails."""
    with open(ASSERTIONS, encoding="utf-8") as file:
        given = json.load(file)
    peer = Peer(READING, WRITING, OF_ASSERTIONS)
    space = _module("answer")
    number = 1
    try:
        exec(compile(given["setup"], "<setup>", "exec"), space)
        peer.classes = _classes(space)
        for name, module in given["modules"]:
            found = importlib.import_module(module)
            space[name] = found if name == module else getattr(found, name)
        for name in set(given["names"]) - space.keys():
            with contextlib.suppress(NameError):  # an assertion that uses the name fails
                space[name] = peer.ask("find", name)
        for number, source in enumerate(given["sources"], 1):
            peer.seen = None
            exec(compile(source, "<test>", "exec"), space)
            if peer.ended:
                raise Ended(peer.ended)
            _report({"passed": number})
    except Ended as e:
        _report({"failed": number, "reason": "ended_early", "evidence": str(e)})
    except AssertionError as e:
        _report({"failed": number, "reason": "wrong_value", "evidence": str(e) or _seen(peer)})
    except MemoryError:
        _report({"failed": number, "reason": "too_much_memory", "evidence": "of what it returned"})
    except BaseException as e:  # noqa: BLE001 - an assertion that raises anything fails
        _report({"failed": number, "reason": "raised", "evidence": f"{type(e).__name__}: {e}"})
    os._exit(0)


def _seen(peer: Peer) -> str:
    """The last value that came from the program, for the evidence."""
    try:
        return repr(peer.seen)[:200]
    except BaseException:  # noqa: BLE001 - the program may define the repr
        return ""


def _report(result: dict[str, Any]) -> None:
    result = {key: value[:300] if isinstance(value, str) else value for key, value in result.items()}
    os.write(REPORT, json.dumps(result).encode() + b"\n")
