"""A checking process that is killed when it is late, and kept warm when it is not.

Runs `filters.checks`, and works from threads, from asyncio (through `asyncio.to_thread`) and after a fork.
Only bytes cross the pipe, never pickles: what has read hostile text is not trusted either. A process ends
with its parent, however that ends: it waits on the pipe between checks, and the kernel's timer bounds each.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from pipeline.errors import Stopped

START_LIMIT = 120.0  # seconds to start and import; a cold disk is slow, and it is nobody's answer
RECYCLE_AFTER = 1000  # checks: SymPy's caches grow
STARTED, REPLY_LIMIT = b"started", 200  # bytes

# What a Python needs to start; the keys of APIs stay here.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TMPDIR")


class WorkerError(Stopped):
    """The checking process could not be started: nothing that an answer could cause."""


def check(name: str, arguments: dict[str, Any], seconds: float) -> str:
    """The outcome of one of `filters.checks.CHECKS`, or "timeout" or "crashed". Raises WorkerError.

    `seconds` is the time for the model's text alone: starting a process and importing libraries do not count.
    """
    request = json.dumps({"check": name, "arguments": arguments, "seconds": seconds}).encode()
    return _workers.ask(request, seconds)


class _Worker:
    def __init__(self) -> None:
        self.asked = 0
        self._connection, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "filters.checks", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=_environment(),
            )

    def ask(self, request: bytes, seconds: float) -> str:
        """The reply, "timeout" or "crashed"; after either of these two the process is of no more use."""
        self.asked += 1
        try:
            self._connection.send_bytes(request)
            if not self._connection.poll(START_LIMIT):
                raise WorkerError(f"the checking process did not start within {START_LIMIT:.0f} s")
            ready = self._connection.recv_bytes(REPLY_LIMIT)
        except (EOFError, OSError):
            raise WorkerError("the checking process ended before it started to check") from None
        if ready != STARTED:
            raise WorkerError(ready.decode("utf-8", "replace"))
        if not self._connection.poll(seconds):
            return "timeout"
        try:
            return self._connection.recv_bytes(REPLY_LIMIT).decode("ascii", "replace")
        except (EOFError, OSError):
            return "crashed"

    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()


class _Workers:
    """At most one process a core; each serves one check at a time, and the last one used is used first."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._slots = threading.BoundedSemaphore(os.cpu_count() or 1)
        self._idle: list[_Worker] = []

    def ask(self, request: bytes, seconds: float) -> str:
        with self._slots:
            worker = self._take()
            healthy = False
            try:
                outcome = worker.ask(request, seconds)
                healthy = outcome not in ("timeout", "crashed") and worker.asked < RECYCLE_AFTER
            finally:  # a KeyboardInterrupt leaves a reply in the pipe that must not answer the next question
                if healthy:
                    self._idle.append(worker)
                else:
                    worker.stop()
        return outcome

    def _take(self) -> _Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive():
                return worker
            worker.stop()
        return _Worker()

    def stop(self) -> None:
        while self._idle:
            self._idle.pop().stop()


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONHASHSEED": "0",  # the order of SymPy's sets
        "OPENBLAS_NUM_THREADS": "1",  # each thread would reserve address space
        "OMP_NUM_THREADS": "1",
    }


_workers = _Workers()
atexit.register(_workers.stop)
os.register_at_fork(after_in_child=_workers.reset)  # a parent's process answers its parent alone
