"""Subprocesses that end when we end, however we end: `Child`, and the guard that it puts between.

A process killed with SIGKILL cannot clean up after itself, so a small guard (this file, run as a script)
starts the real command and watches over it. It compares its parent's pid instead of waiting for a pipe to
close: workers that the parent forked would hold the pipe open. On Linux the guard adopts what the command
leaves behind, so that no process escapes by changing its group, as torch's elastic launcher does.

Imports the standard library alone: the guard must start in milliseconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

POLL = 0.1  # seconds
TAIL_BYTES = 64 * 1024
LINE_CHARS = 500

_ANSI = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


class Child:
    """A subprocess in a session of its own, its output in a log file, that ends when we end (kill -9 too).

    The terminal's Ctrl-C does not reach it. `env` replaces the environment when given. When it has to end, it
    has `grace` seconds between SIGTERM and SIGKILL. A command that cannot be started says so in the log and
    ends with 127.
    """

    def __init__(
        self, command: list[str], log: Path, env: Mapping[str, str] | None = None, grace: float = 15
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        guard = [
            sys.executable,
            "-I",
            "-S",
            os.path.abspath(__file__),
            str(os.getpid()),
            str(grace),
            *command,
        ]
        with log.open("ab") as out:
            self._log_start = out.tell()  # what stands before is of an earlier run
            self._guard = subprocess.Popen(
                guard, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, start_new_session=True
            )

    def poll(self) -> int | None:
        """The exit code (128 + n when signal n ended it), None while it runs."""
        code = self._guard.poll()
        return None if code is None else _as_in_a_shell(code)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        return _as_in_a_shell(self._guard.wait(timeout))

    def stop(self) -> None:
        """SIGTERM to every process of the command, SIGKILL after the grace, or when interrupted again."""
        if self.poll() is not None:
            return
        self._guard.terminate()
        try:
            self._guard.wait()
        except KeyboardInterrupt:
            self._guard.terminate()  # the second one means: now
            self._guard.wait()
            raise

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of our part of the log as plain text, progress bars as they last stood."""
        with self.log.open("rb") as f:
            f.seek(max(self._log_start, f.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = f.read(TAIL_BYTES).decode("utf-8", errors="replace")
        return "\n".join(_plain(text)[-lines:])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _as_in_a_shell(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def _plain(text: str) -> list[str]:
    """Lines without colours and control characters; of a line written over, what was written last."""
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in _ANSI.sub("", text).split("\n"))
    return [_CONTROL.sub("", line).rstrip()[:LINE_CHARS] for line in lines if line.strip()]


def _guard(parent: int, grace: float, command: list[str]) -> int:
    """Run the command until it ends, the parent ends, or SIGTERM comes; leave nothing of it behind."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: asked.append(received))
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        child = subprocess.Popen(
            command, process_group=0, preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        )
    except OSError as e:
        print(f"cannot start {command[0]}: {e.strerror}", file=sys.stderr, flush=True)
        return 127
    while child.poll() is None and not asked and os.getppid() == parent:
        time.sleep(POLL)
    _end_all(child, grace, asked)
    code = child.poll()
    return _as_in_a_shell(-signal.SIGKILL if code is None else code)  # None: stuck in a driver


def _end_all(child: subprocess.Popen[bytes], grace: float, asked: list[int]) -> None:
    """SIGTERM to all that is left of the command; SIGKILL after the grace, or at once when asked twice."""
    _send(signal.SIGTERM, child)
    deadline = time.monotonic() + grace
    while _left(child) and len(asked) < 2 and time.monotonic() < deadline:
        time.sleep(POLL)
    deadline = time.monotonic() + 5  # a process stuck in a driver may never die: do not wait for ever
    while _left(child) and time.monotonic() < deadline:
        _send(signal.SIGKILL, child)  # again and again: a process may fork while we look
        time.sleep(POLL)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # adopted and ended: leave no zombies to a container's init
            pass


def _left(child: subprocess.Popen[bytes]) -> bool:
    return child.poll() is None or bool(_descendants())


def _send(number: signal.Signals, child: subprocess.Popen[bytes]) -> None:
    running = [child.pid] if child.poll() is None else []
    for pid in {*running, *_descendants()}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _descendants() -> list[int]:
    """Living processes below this one, from /proc (see proc_pid_stat(5)); zombies do not count."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended while we looked
        if state not in "ZX":
            below.setdefault(int(ppid), []).append(int(stat.parent.name))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        children = below.get(todo.pop(), [])
        found += children
        todo += children
    return found


def prctl(option: int, value: int) -> None:
    """Linux alone has this; elsewhere only the command itself is ended, not what it started."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(_guard(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
