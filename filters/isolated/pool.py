"""A checking process that is started once and forks a child for each check, ended by the kernel when late.

Runs `filters.isolated.server`, and works from threads, from asyncio (through `asyncio.to_thread`) and after a
fork. Only bytes cross the pipe, never pickles: what has read hostile text is not trusted either. The process
ends with its parent, however that ends: it waits on the pipe between checks, and the kernel's timer bounds
each.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.errors import Stopped

START_LIMIT = 120.0  # seconds to start and import; a cold disk is slow, and it is nobody's answer
AT_ONCE = max(8, 2 * (os.cpu_count() or 1))  # checks; more wait, and their waiting counts
STARTED, REPLY_LIMIT = b"started", 200  # bytes
NO_ROOM = "no_room"  # an error of the system, such as too many open files: no answer of the text's

# What a Python needs to start; the keys of APIs stay here.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TMPDIR")


class WorkerError(Stopped):
    """The checking process could not be started: nothing that an answer could cause."""


def check(name: str, arguments: dict[str, Any], seconds: float) -> str:
    """The outcome of one of `filters.isolated.server.CHECKS`, or "timeout" or "crashed". Raises WorkerError.

    `seconds` counts from the asking; only starting the process and importing its libraries, which happens
    once, does not count.
    """
    request = json.dumps({"check": name, "arguments": arguments, "seconds": seconds}).encode()
    asked = time.monotonic()
    if not _checks.slots.acquire(timeout=seconds):  # no more than AT_ONCE; waiting for that counts
        return "timeout"
    try:
        return _ask(request, max(seconds - (time.monotonic() - asked), 0.01))
    finally:
        _checks.slots.release()


class Server:
    """A process that is sent connections on a socket, and ends when that is closed."""

    def __init__(self, command: Sequence[str], arguments: Sequence[str], environment: dict[str, str]) -> None:
        try:
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno()), *arguments],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,  # Ctrl-C reaches a whole group; whoever started it decides
                )
        except OSError as e:
            raise WorkerError(f"no process can be started: {e.strerror or e}") from e

    def connect(self, *descriptors: int) -> Connection:
        """A connection of its own for one request, which comes with these descriptors."""
        try:
            ours, theirs = Pipe()
        except OSError as e:
            raise WorkerError(f"no process can be asked: {e.strerror or e}") from e
        with theirs:
            try:
                socket.send_fds(self._control, [b"+"], [theirs.fileno(), *descriptors])
            except OSError:
                ours.close()
                raise WorkerError("the checking process has ended") from None
        return ours

    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        self._control.close()
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """In a forked process: the server is the parent's."""
        self._control.close()


class Kept:
    """The server of this process, started with the first request; a forked process starts its own."""

    def __init__(
        self, command: Sequence[str], arguments: Sequence[str], environment: Callable[[], dict[str, str]]
    ) -> None:
        self._command, self._arguments, self._environment = command, arguments, environment
        self._server: Server | None = None
        self.reset()
        atexit.register(self.stop)
        os.register_at_fork(after_in_child=self.reset)  # a parent's process answers its parent alone

    def reset(self) -> None:
        if self._server is not None:
            self._server.forget()
        self._server = None
        self._starting = threading.Lock()
        self.slots = threading.BoundedSemaphore(AT_ONCE)

    def connect(self, *descriptors: int) -> Connection:
        return self._running().connect(*descriptors)

    def _running(self) -> Server:
        with self._starting:
            if self._server is None or not self._server.alive():
                if self._server is not None:
                    self._server.stop()
                self._server = Server(self._command, self._arguments, self._environment())
            return self._server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


def _ask(request: bytes, seconds: float) -> str:
    with _checks.connect() as connection:
        try:
            connection.send_bytes(request)
            if not connection.poll(START_LIMIT):
                raise WorkerError(f"the checking process did not start within {START_LIMIT:.0f} s")
            ready = connection.recv_bytes(REPLY_LIMIT)
        except (EOFError, OSError):
            raise WorkerError("the checking process ended before it started to check") from None
        if ready != STARTED:
            raise WorkerError(ready.decode("utf-8", "replace"))
        if not connection.poll(seconds):
            return "timeout"
        try:
            said = connection.recv_bytes(REPLY_LIMIT).decode("ascii", "replace")
        except (EOFError, OSError):
            return "crashed"
        if said == NO_ROOM:
            raise WorkerError("the system refused a checking process what it needs")
        return said


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONHASHSEED": "0",  # the order of SymPy's sets
        "OPENBLAS_NUM_THREADS": "1",  # each thread would reserve address space
        "OMP_NUM_THREADS": "1",
    }


_checks = Kept([sys.executable, "-P", "-m", "filters.isolated.server"], [], _environment)
