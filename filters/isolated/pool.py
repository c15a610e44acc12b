"""Client of a fork server that runs each check in a child process with bounded memory and time.

The server (`filters.isolated.server`) starts with the first check. `check` works from threads, from asyncio
(through `asyncio.to_thread`) and after a fork. Only bytes cross the pipe, never pickles, because a process
that has read hostile text is not trusted. The server exits when its parent's end of the socket closes; the
kernel ends a check that is late.
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

from filters.errors import Stopped, UserError

START_TIMEOUT = 120.0  # seconds to start and import, which may be slow on a cold disk
MAX_PARALLEL = max(8, 2 * (os.cpu_count() or 1))  # checks; others wait, and their waiting counts
STARTED, REPLY_LIMIT = b"started", 500  # bytes
MISSING = b"missing "  # begins the reply of a check whose libraries or data are not installed
NO_RESOURCES = "no_resources"  # a system error such as too many open files; not caused by the text

# Variables that Python needs to start; API keys are not passed on.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TMPDIR", "NLTK_DATA")


class CheckerError(Stopped):
    """The checking process failed in a way that no answer can cause."""


def check(name: str, arguments: dict[str, Any], seconds: float) -> str:
    """Runs one of `filters.isolated.server.CHECKS`; returns its outcome, "timeout" or "crashed".

    `seconds` includes waiting for other checks, but not starting the server and importing its libraries,
    which happens once. Raises CheckerError, or UserError where something has to be installed first.
    """
    request = json.dumps({"check": name, "arguments": arguments, "seconds": seconds}).encode()
    start = time.monotonic()
    if not _checker.slots.acquire(timeout=seconds):
        return "timeout"
    try:
        return _request(request, max(seconds - (time.monotonic() - start), 0.01))
    finally:
        _checker.slots.release()


def _request(request: bytes, seconds: float) -> str:
    with _checker.connect() as connection:
        try:
            connection.send_bytes(request)
            if not connection.poll(START_TIMEOUT):
                raise CheckerError(f"the checking process did not start within {START_TIMEOUT:.0f} s")
            ready = connection.recv_bytes(REPLY_LIMIT)
        except (EOFError, OSError):
            raise CheckerError("the checking process ended before it started to check") from None
        if ready.startswith(MISSING):
            raise UserError(ready.removeprefix(MISSING).decode("utf-8", "replace"))
        if ready != STARTED:
            raise CheckerError(ready.decode("utf-8", "replace"))
        if not connection.poll(seconds):
            return "timeout"
        try:
            outcome = connection.recv_bytes(REPLY_LIMIT).decode("ascii", "replace")
        except (EOFError, OSError):
            return "crashed"
        if outcome == NO_RESOURCES:
            raise CheckerError("the system refused the checking process a resource")
        return outcome


class ForkServer:
    """A process that receives connections on a socket and exits when the socket is closed.

    It starts with the first request, and again if it died. A forked process starts its own.
    """

    def __init__(
        self, command: Sequence[str], arguments: Sequence[str], environment: Callable[[], dict[str, str]]
    ) -> None:
        self._command, self._arguments, self._environment = command, arguments, environment
        self.process: subprocess.Popen[bytes] | None = None
        self._reset()
        atexit.register(self.stop)
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        if self.process is not None:
            self._control.close()  # the server belongs to the parent process
        self.process = None
        self._starting = threading.Lock()
        self.slots = threading.BoundedSemaphore(MAX_PARALLEL)

    def _start(self) -> None:
        try:
            self._control, theirs = socket.socketpair()
            with theirs:
                self.process = subprocess.Popen(
                    [*self._command, str(theirs.fileno()), *self._arguments],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=self._environment(),
                    start_new_session=True,  # Ctrl-C reaches a whole process group; the parent decides
                )
        except OSError as e:
            raise CheckerError(f"cannot start a process: {e.strerror or e}") from e

    def connect(self, *descriptors: int) -> Connection:
        """Opens a connection for one request and sends these descriptors with it."""
        with self._starting:
            if self.process is not None and self.process.poll() is not None:
                self.stop()
            if self.process is None:
                self._start()
            control = self._control
        try:
            ours, theirs = Pipe()
        except OSError as e:
            raise CheckerError(f"cannot open a pipe: {e.strerror or e}") from e
        with theirs:
            try:
                socket.send_fds(control, [b"+"], [theirs.fileno(), *descriptors])
            except OSError:
                ours.close()
                raise CheckerError("the checking process has ended") from None
        return ours

    def stop(self) -> None:
        if self.process is not None:
            self._control.close()
            self.process.kill()
            self.process.wait()
            self.process = None


def _environment() -> dict[str, str]:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ} | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONHASHSEED": "0",  # SymPy's results depend on the order of sets
        "OPENBLAS_NUM_THREADS": "1",  # each thread reserves address space
        "OMP_NUM_THREADS": "1",
    }


_checker = ForkServer([sys.executable, "-P", "-m", "filters.isolated.server"], [], _environment)
