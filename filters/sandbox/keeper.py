"""A process that keeps programs: forks one for each program it is asked to run, within the sandbox.

Started by `filters.sandbox.runner` with the standard library alone and an empty environment, so that there is
nothing in it that a program could learn, and what it forks starts in a moment. It takes an id and namespaces
of its own where it can (`filters.sandbox.restrict.step_away`). For each request it forks a guard, which forks
the program, and for assertions a second process (`filters.sandbox.inside`); lets it make threads, up to
THREADS; ends it when it is late; and says how it ended. When whoever asked is gone, so is the keeper, and all
that it keeps.

What the program does can only end it. What the machine lacks, the guard says in words of its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import importlib
import json
import math
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from typing import Any

from filters.sandbox import restrict
from filters.sandbox.inside import Role

THREADS = 64  # of a program, when it may still make one; those that it makes at the same moment come on top
STARTING = 1.0  # seconds of patience beside twice the CPU time
PATIENCE = 10  # times as much, where the machine has no processor free for it
START_LIMIT = 60.0  # seconds to get ready, before anything of the program runs
# Loaded once, for all programs: what they commonly import.
_COMMON = (
    "bisect", "calendar", "cmath", "copy", "dataclasses", "datetime", "enum", "functools", "heapq", "io",
    "itertools", "math", "numbers", "operator", "pickle", "random", "re", "statistics", "string", "textwrap",
    "threading", "typing", "uuid",
)  # fmt: skip
# How the machine says that it has no more of something.
_LACKING = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT)

# seccomp_unotify(2): struct seccomp_notif is 80 bytes, its answer 24.
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_STARVED = "the machine has had no processor free for a program"


class _Lacking(Exception):
    """The machine cannot do what it can do at another time."""


class _Unsupported(Exception):
    """This system does not have what the sandbox is made of."""


def serve(control: socket.socket) -> Role | None:
    """Answer requests until the other end is closed. Returns what to run, in a process made for that."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a guard: the kernel buries it
    keeper = os.getpid()
    while True:
        byte, descriptors, _, _ = socket.recv_fds(control, 1, 8)
        if not byte:
            return None
        # Fewer where there was no room for them: then its end is closed, which the asker sees.
        if len(descriptors) == 7:
            try:
                pid = os.fork()
            except OSError as e:
                _say(descriptors[0], {"ending": "lacking", "text": f"no process can be made: {e.strerror}"})
            else:
                if pid == 0:
                    control.close()
                    restrict.die_with(keeper)
                    return _guard(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _say(connection: int, said: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # nobody may ask any more
        os.write(connection, json.dumps(said).encode())


def _guard(connection: int, request: int, *files: int) -> Role:
    """Run one request and say how it ended. Returns, in the processes that it makes, what to run there."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        asked = json.loads(os.pread(request, os.fstat(request).st_size, 0))
        kept = _Kept(asked, files)
        role = kept.start()
        if role is not None:
            return role
        said = kept.watch()
    except (_Lacking, MemoryError) as e:
        said = {"ending": "lacking", "text": str(e) or "no memory"}
    except _Unsupported as e:
        said = {"ending": "unsupported", "text": str(e)}
    except OSError as e:
        said = {"ending": "lacking", "text": str(e)}
    except Exception:  # noqa: BLE001 - an error of ours, which the asker raises
        said = {"ending": "error", "text": traceback.format_exc()}
    _say(connection, said)
    os._exit(0)


class _Process:
    """A process in the jail, seen from outside of it."""

    def __init__(self, pid: int, status: socket.socket) -> None:
        self._pid, self._status = pid, status
        self.ended = os.pidfd_open(pid)
        self.listener = self._folder = -1

    def get_ready(self) -> None:
        """Wait until it has given up what it must not have."""
        self._status.settimeout(START_LIMIT)
        try:
            said, descriptors, _, _ = socket.recv_fds(self._status, 1000, 2)
            if said == b"given up":
                self._folder, *listeners = descriptors
                self.listener = listeners[0] if listeners else -1
                said = self._status.recv(1000)
        except (TimeoutError, ValueError):
            raise _Lacking("the sandbox did not get ready") from None
        finally:
            self._status.close()
        if said != restrict.READY:
            code, _, text = said.decode("utf-8", "replace").partition(" ")
            lacking = not code.isdigit() or int(code) in _LACKING
            raise (_Lacking if lacking else _Unsupported)(text or "the sandbox ended before it was ready")

    def allow_thread(self) -> None:
        """Answer the kernel, which asks for the process whether it may make one more thread."""
        question = bytearray(80)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, question)
            (identity,) = struct.unpack_from("Q", question)
            # From the start of a line: a program may name itself "Threads: 1".
            free = int(self._read("status").partition("\nThreads:")[2].split()[0]) < THREADS
            answer = struct.pack("QqiI", identity, 0, 0 if free else -errno.EAGAIN, _CONTINUE if free else 0)
            fcntl.ioctl(self.listener, _SEND, bytearray(answer))
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ESRCH, errno.EINTR):  # it ended meanwhile, or asks again
                raise

    def waited(self) -> tuple[float, bool]:
        """Seconds for which no processor was free for it, and whether it would run now.

        The seconds are those of the thread that waited longest, up to when it last got a processor.
        """
        seconds, ready = 0.0, False
        try:
            tasks = os.open("task", os.O_RDONLY, dir_fd=self._folder)
            try:
                for task in os.listdir(tasks):
                    seconds = max(seconds, int(self._read(f"task/{task}/schedstat").split()[1]) / 1e9)
                    # The state follows the name, which is the program's to choose, and may hold brackets.
                    ready |= self._read(f"task/{task}/stat").rpartition(") ")[2][:1] == "R"
            finally:
                os.close(tasks)
        except (FileNotFoundError, ProcessLookupError):
            pass  # it, or one of its threads, is gone
        return seconds, ready

    def _read(self, name: str) -> str:
        file = os.open(name, os.O_RDONLY, dir_fd=self._folder)
        try:
            return os.read(file, 1 << 16).decode("ascii", "replace")
        finally:
            os.close(file)

    def end(self, patience: float, seconds: float) -> str:
        """How it ended by itself, or "running" if it had to be ended; all of its group is killed."""
        by_itself = bool(select.select([self.ended], [], [], patience)[0])
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                kill(self._pid, signal.SIGKILL)  # it is not waited for yet: the number is nobody else's
        _, status, used = os.wait4(self._pid, 0)
        code, cpu = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        # The kernel holds the limit against ticks, which on a busy machine run ahead of the time it reports.
        by_limit = code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu > 0.5 * math.ceil(seconds))
        if cpu > seconds or (by_itself and by_limit):
            return "slow"
        if not by_itself:
            return "running"
        if code == -signal.SIGKILL:  # which it cannot send to itself
            raise _Lacking("the system has killed a program, which it does when memory runs out")
        return "killed" if code < 0 else "raised" if code else "done"


class _Kept:
    """The processes of one request."""

    def __init__(self, asked: dict[str, Any], files: tuple[int, ...]) -> None:
        self._asked, self._files = asked, files
        self._all: list[_Process] = []

    def start(self) -> Role | None:
        """Start them and wait until they are ready. Returns, in each of them, what to run."""
        asked = self._asked
        *standard, assertions, report = self._files
        if not asked["asserts"]:
            return self._fork(Role("program", asked["setup"], asked["code"]), standard)
        to_program, from_assertions = os.pipe()
        to_assertions, from_program = os.pipe()
        ours = self._fork(
            Role("answering", asked["setup"], asked["code"]), [*standard, to_program, from_program]
        )
        if ours is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            theirs = [nothing, nothing, nothing, to_assertions, from_assertions, assertions, report]
            ours = self._fork(Role("asserting", "", ""), theirs)
        if ours is None:
            for pipe in (to_program, from_assertions, to_assertions, from_program):
                os.close(pipe)  # each must see it when the other is gone
        return ours

    def _fork(self, role: Role, descriptors: list[int]) -> Role | None:
        guard = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            restrict.die_with(guard)
            restrict.lock_up(theirs.detach(), descriptors, self._asked)
            return role
        theirs.close()
        process = _Process(pid, ours)
        self._all.append(process)
        process.get_ready()
        return None

    def watch(self) -> dict[str, Any]:
        """Wait for the end, or bring it about; nothing is left."""
        seconds = self._asked["seconds"]
        ending = self._wait(2 * seconds + STARTING)
        program, last = self._all[0], self._all[-1]
        # Where the assertions met the end of the program, how it ended is the reason.
        met = b'"ended_early"' in os.pread(self._files[-1], 1 << 20, 0)
        endings = [process.end(1.0 if process is program and met else 0.0, seconds) for process in self._all]
        if ending:
            return {"ending": ending} if ending == "slow" else {"ending": "lacking", "text": _STARVED}
        if endings[-1] in ("slow", "killed") and last is not program:
            return {"ending": endings[-1]}
        return {"ending": "done" if endings[0] == "running" else endings[0]}

    def _wait(self, allowed: float) -> str:
        """Wait for the last one to end: "" if it did, "slow", or "starved" for want of a processor."""
        poll = select.poll()
        poll.register(self._all[-1].ended, select.POLLIN)
        asking = {process.listener: process for process in self._all if process.listener >= 0}
        for listener in asking:
            poll.register(listener, select.POLLIN)
        begun, waited = time.monotonic(), 0.0
        while True:
            passed = time.monotonic() - begun
            for descriptor, event in poll.poll(max(0.0, allowed + waited - passed) * 1000):
                if descriptor not in asking:
                    return ""
                if event & select.POLLIN:
                    asking[descriptor].allow_thread()
                else:
                    poll.unregister(descriptor)  # it is gone
            if passed < allowed + waited:
                continue
            found = [process.waited() for process in self._all]
            before, waited = waited, max(waited, sum(seconds for seconds, _ in found))
            if waited < before + 0.1 * allowed:
                if not any(ready for _, ready in found):
                    return "slow"
                waited += 0.1 * allowed  # it has been waiting since it last ran: that counts when it runs
            if passed > PATIENCE * allowed:
                return "starved"


def main() -> None:
    """Argument: the descriptor of the socket on which requests come."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in _COMMON:
        importlib.import_module(name)
    os.chdir("/")
    restrict.step_away()
    gc.freeze()  # what is loaded is shared with all programs, and no collection may copy it
    role = serve(control)
    if role is not None:
        role.run()
