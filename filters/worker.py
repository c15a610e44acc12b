"""A checking process that is started once and forks a child for each check, ended by the kernel when late.

Runs `filters.checks`, and works from threads, from asyncio (through `asyncio.to_thread`) and after a fork.
Only bytes cross the pipe, never pickles: what has read hostile text is not trusted either. The process ends
with its parent, however that ends: it waits on the pipe between checks, and the kernel's timer bounds each.
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
    """The outcome of one of `filters.checks.CHECKS`, or "timeout" or "crashed". Raises WorkerError.

    `seconds` counts from the asking; only starting the process and importing its libraries, which happens
    once, does not count.
    """
    request = json.dumps({"check": name, "arguments": arguments, "seconds": seconds}).encode()
    return _checks.in_turn(request, seconds)


class _Server:
    """The process of `filters.checks`, started with the first check."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "filters.checks", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )

    def connect(self) -> Connection:
        """A connection of its own for one check."""
        ours, theirs = Pipe()
        with theirs:
            try:
                socket.send_fds(self._control, [b"+"], [theirs.fileno()])
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


class _Checks:
    """The server of this process, and how many checks run in it at once."""

    def __init__(self) -> None:
        self._server: _Server | None = None
        self.reset()

    def reset(self) -> None:
        if self._server is not None:
            self._server.forget()
        self._server = None
        self._starting = threading.Lock()
        self._slots = threading.BoundedSemaphore(AT_ONCE)

    def ask(self, request: bytes, seconds: float) -> str:
        with self._running().connect() as connection:
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

    def in_turn(self, request: bytes, seconds: float) -> str:
        """The same, when no more than AT_ONCE are asking; waiting for that counts."""
        asked = time.monotonic()
        if not self._slots.acquire(timeout=seconds):
            return "timeout"
        try:
            return self.ask(request, max(seconds - (time.monotonic() - asked), 0.01))
        finally:
            self._slots.release()

    def _running(self) -> _Server:
        with self._starting:
            if self._server is None or not self._server.alive():
                if self._server is not None:
                    self._server.stop()
                self._server = _Server()
            return self._server

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONHASHSEED": "0",  # the order of SymPy's sets
        "OPENBLAS_NUM_THREADS": "1",  # each thread would reserve address space
        "OMP_NUM_THREADS": "1",
    }


_checks = _Checks()
atexit.register(_checks.stop)
os.register_at_fork(after_in_child=_checks.reset)  # a parent's process answers its parent alone
