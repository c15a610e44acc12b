"""Subprocesses that never outlive their parent, even if it is killed with SIGKILL.

`Child` starts a small guard process (this file, run as a script), which starts the real command. The guard
polls its parent's pid; a pipe would not do, since workers forked by the parent keep it open. On Linux the
guard is a subreaper: it adopts orphans of the command, so that no process escapes by changing its group, as
torch's elastic launcher does. Only the standard library is imported: the guard starts in milliseconds.
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
from typing import Self

POLL_INTERVAL = 0.1  # seconds
KILL_TIMEOUT = 5  # seconds; a process stuck in a driver may never die
TAIL_BYTES = 64 * 1024
LINE_CHARS = 500

_ANSI = re.compile(r"\x1b(\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


class Child:
    """A subprocess in its own session that appends its output to a log and ends when this process ends.

    The terminal's Ctrl-C does not reach it. `env` replaces the environment; `grace` is the time in seconds
    between SIGTERM and SIGKILL. A command that cannot be started logs the reason and exits with 127.
    """

    def __init__(
        self, command: list[str], log: Path, env: Mapping[str, str] | None = None, grace: float = 15
    ) -> None:
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        guard = [sys.executable, "-I", "-S", os.path.abspath(__file__), str(os.getpid()), str(grace)]
        with log.open("ab") as out:
            self._log_start = out.tell()  # earlier lines belong to earlier runs
            self._guard = subprocess.Popen(
                [*guard, *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=env,
                start_new_session=True,
            )

    def processes(self) -> list[int]:
        """The ids of the command's living processes; on Linux only, [] elsewhere."""
        return _descendants(self._guard.pid)

    def poll(self) -> int | None:
        """The exit code (128 + n if signal n ended it); None while it runs."""
        code = self._guard.poll()
        return None if code is None else _shell_code(code)

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the exit code. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        return _shell_code(self._guard.wait(timeout))

    def stop(self, grace: float | None = None) -> None:
        """Sends SIGTERM to all processes of the command, SIGKILL after the grace or a second interrupt.

        `grace` replaces the command's own, if it is shorter.
        """
        if self.poll() is not None:
            return
        self._guard.terminate()
        try:
            self._guard.wait(grace)
        except (KeyboardInterrupt, subprocess.TimeoutExpired) as e:
            self._guard.terminate()  # a second signal ends the grace
            self._guard.wait()
            if isinstance(e, KeyboardInterrupt):
                raise

    def log_tail(self, lines: int = 15) -> str:
        """The last lines logged by this subprocess, as plain text, with the final state of progress bars."""
        with self.log.open("rb") as f:
            f.seek(max(self._log_start, f.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = f.read(TAIL_BYTES).decode("utf-8", errors="replace")
        return "\n".join(_plain(text)[-lines:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _shell_code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def _plain(text: str) -> list[str]:
    """Splits into lines without control codes; of an overwritten line, the final text stays."""
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in _ANSI.sub("", text).split("\n"))
    return [_CONTROL.sub("", line).rstrip()[:LINE_CHARS] for line in lines if line.strip()]


def _guard(parent: int, grace: float, command: list[str]) -> int:
    """Runs the command until it ends, the parent ends or a signal arrives; leaves no process behind."""
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received_number, _frame: received.append(received_number))
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        child = subprocess.Popen(
            command, process_group=0, preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        )
    except OSError as e:
        print(f"cannot start {command[0]}: {e.strerror}", file=sys.stderr, flush=True)
        return 127
    while child.poll() is None and not received and os.getppid() == parent:
        time.sleep(POLL_INTERVAL)
    _end_all(child, grace, received)
    code = child.poll()
    return _shell_code(-signal.SIGKILL if code is None else code)  # None: stuck in a driver


def _end_all(child: subprocess.Popen[bytes], grace: float, received: list[int]) -> None:
    """Ends what remains of the command: SIGTERM, then SIGKILL after the grace or a second signal."""
    _send(signal.SIGTERM, child)
    deadline = time.monotonic() + grace
    while _any_left(child) and len(received) < 2 and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)
    deadline = time.monotonic() + KILL_TIMEOUT
    while _any_left(child) and time.monotonic() < deadline:
        _send(signal.SIGKILL, child)  # repeated, because a process may fork meanwhile
        time.sleep(POLL_INTERVAL)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # reap adopted zombies
            pass


def _any_left(child: subprocess.Popen[bytes]) -> bool:
    return child.poll() is None or bool(_descendants(os.getpid()))


def _send(number: signal.Signals, child: subprocess.Popen[bytes]) -> None:
    running = [child.pid] if child.poll() is None else []
    for pid in {*running, *_descendants(os.getpid())}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _descendants(root: int) -> list[int]:
    """Living descendants of a process, without zombies, from /proc (see proc_pid_stat(5))."""
    children_of: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, ppid = stat.read_text(errors="replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if state not in "ZX":
            children_of.setdefault(int(ppid), []).append(int(stat.parent.name))
    descendants: list[int] = []
    parents = [root]
    while parents:
        children = children_of.get(parents.pop(), [])
        descendants += children
        parents += children
    return descendants


def prctl(option: int, value: int) -> None:
    """Calls prctl(2), on Linux only. Elsewhere the command is ended, but not the processes it started."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(_guard(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
