"""Run a program that nobody vouches for, in a process of its own, within limits; say how it ended.

The process has an empty environment, an empty folder to work in, and after `filters.jail` has taken it away
no file to write, no network, no other process. It is killed when it is late, and dies with its parent. All it
can say goes to files in memory whose size the kernel bounds.
"""

from __future__ import annotations

import marshal
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

from filters.jail import READY

OUTPUT_LIMIT = 8 << 20  # bytes of standard output, of errors, of replies
STARTING = 1.0  # seconds of patience beside twice the CPU time
# The jail comes compiled, at the start of the request's file: compiling it takes longer than it runs.
_JAIL = Path(__file__).with_name("jail.py")
_JAIL_CODE = marshal.dumps(compile(_JAIL.read_bytes(), _JAIL.name, "exec"))
_START = "import marshal, os, sys; exec(marshal.loads(os.pread(int(sys.argv[1]), int(sys.argv[2]), 0)))"
_PYTHON = (sys.executable, "-s", "-P", "-S", "-B", "-X", "utf8", "-c", _START)
_ENVIRONMENT = {"PYTHONHASHSEED": "0"}  # sets have the same order in every run

Sandbox = Literal["full", "limits"]
Ending = Literal["done", "raised", "slow", "starved", "killed", "no_sandbox"]


class Check(NamedTuple):
    """What to do once the program has run: evaluate an expression, or run statements."""

    kind: Literal["value", "run"]
    source: str


class Ran(NamedTuple):
    ending: Ending
    output: bytes
    errors: str  # the last line of its errors; why there is no sandbox
    replies: list[str]  # one for each check that was reached
    overflowed: bool  # it tried to say more than OUTPUT_LIMIT


def run(
    code: str,
    *,
    stdin: str = "",
    setup: str = "",
    checks: Sequence[Check] = (),
    seconds: float,
    memory_mb: int,
    sandbox: Sandbox = "full",
) -> Ran:
    """Run `code`, after `setup`, with `stdin`, then the checks; `seconds` are of CPU time.

    With checks it runs as a module that is imported, without them as the main program. With the sandbox
    "limits" nothing but the limits protects, for machines whose kernel has no Landlock or seccomp: such a
    program can read and write what we can, reach the network, and leave processes behind that changed their
    group; the rest of what it started is killed with it.
    """
    request = {
        "code": code,
        "setup": setup,
        "name": "answer" if checks else "__main__",
        "checks": [tuple(check) for check in checks],
        "seconds": math.ceil(seconds),
        "memory": memory_mb << 20,
        "output": OUTPUT_LIMIT,
        "protect": sandbox == "full",
    }
    with ExitStack() as stack:
        asked, given, said, failed, replies = (
            stack.enter_context(os.fdopen(os.memfd_create(name), "w+b"))
            for name in ("request", "stdin", "stdout", "stderr", "replies")
        )
        asked.write(_JAIL_CODE)
        marshal.dump(request, asked)
        given.write(stdin.encode("utf-8", "backslashreplace"))
        asked.flush()
        given.seek(0)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-"))
        process = subprocess.Popen(
            [*_PYTHON, *map(str, (asked.fileno(), len(_JAIL_CODE), replies.fileno(), os.getpid()))],
            stdin=given,
            stdout=said,
            stderr=failed,
            pass_fds=(asked.fileno(), replies.fileno()),
            cwd=folder,
            env=_ENVIRONMENT,
            start_new_session=True,
        )
        ending = _wait(process, seconds)
        heard = [_content(file.fileno()) for file in (said, failed, replies)]
    return _as_ran(ending, *heard)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> Ending:
    """Wait for the end, or bring it about; nothing of the process is left."""
    try:
        ended = os.pidfd_open(process.pid)
        try:
            late = not _poll(ended, 2 * seconds + STARTING)
        finally:
            os.close(ended)
        waiting = late and _state(process.pid) == "S"
    finally:
        _kill_group(process.pid)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    cpu = used.ru_utime + used.ru_stime
    # The kernel holds the limit against ticks, which on a busy machine run ahead of the time it reports.
    ended_by_limit = process.returncode == -signal.SIGKILL and cpu > 0.5 * math.ceil(seconds)
    if cpu > seconds or waiting or ended_by_limit:
        return "slow"
    if late:
        return "starved"
    if process.returncode < 0:
        return "killed"
    return "raised" if process.returncode else "done"


def _poll(descriptor: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _state(pid: int) -> str:
    """The state of a process: R when it runs or would, S when it sleeps (proc_pid_stat(5))."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]


def _kill_group(pid: int) -> None:
    """The process is not waited for yet, so its number is nobody else's."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, OUTPUT_LIMIT, 0)


def _as_ran(ending: Ending, said: bytes, failed: bytes, replied: bytes) -> Ran:
    overflowed = max(map(len, (said, failed, replied))) >= OUTPUT_LIMIT
    errors = failed[-4000:].decode("utf-8", "replace").strip().rpartition("\n")[2]
    if not replied.startswith(READY):
        if ending in ("done", "raised"):
            ending = "no_sandbox"
        return Ran(ending, said, replied.decode("utf-8", "replace") or errors, [], overflowed)
    lines = replied[len(READY) :].decode("utf-8", "replace").split("\n")
    return Ran(ending, said, errors, lines[:-1], overflowed)
