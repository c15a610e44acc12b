"""Fork server for programs: forks a sandboxed process for every program it is sent.

`filters.sandbox.runner` starts it with the standard library only and an empty environment, so that it holds
nothing a program could learn and its forks start fast. It takes its own user id and namespaces if it can
(`filters.sandbox.restrict.isolate`). For each request it forks a supervisor, which forks the program and, for
assertions, a second process (`filters.sandbox.inside`). The supervisor grants threads, up to THREADS, ends a
program that is late and reports how it ended. The server and its descendants exit when the caller is gone.

Whatever a program does, its supervisor reports an ending of the program. A lack of system resources is
reported separately.
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

THREADS = 64  # of a program, up to which it may start another; threads started at once may exceed it
STARTUP = 1.0  # seconds of wall-clock time allowed in addition to twice the CPU time
MAX_WAIT = 10  # times the allowed wall-clock time, if no processor is free
START_TIMEOUT = 60.0  # seconds to enter the sandbox, before any code of the program runs
# Modules that programs commonly import, loaded once for all.
_PRELOADED = (
    "bisect", "calendar", "cmath", "copy", "dataclasses", "datetime", "enum", "functools", "heapq", "io",
    "itertools", "math", "numbers", "operator", "pickle", "random", "re", "statistics", "string", "textwrap",
    "threading", "typing", "uuid",
)  # fmt: skip
# Errors of a system that is out of resources.
_NO_RESOURCES = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT)

# seccomp_unotify(2): struct seccomp_notif has 80 bytes, struct seccomp_notif_resp 24.
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1


class _Failure(Exception):
    """The system, not the program, failed: "no_resources" now, or "unsupported"; and the reason."""


def serve(control: socket.socket) -> Role | None:
    """Serves requests until the other end is closed. In a forked child, returns the role to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the supervisors
    server = os.getpid()
    while True:
        byte, descriptors, _, _ = socket.recv_fds(control, 1, 8)
        if not byte:
            return None
        # Without room for all descriptors fewer arrive; then the caller sees a closed connection.
        if len(descriptors) == 7:
            try:
                pid = os.fork()
            except OSError as e:
                _reply(descriptors[0], {"ending": "no_resources", "text": f"cannot fork: {e.strerror}"})
            else:
                if pid == 0:
                    control.close()
                    restrict.die_with_parent(server)
                    return _supervise(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _reply(connection: int, answer: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the caller may be gone
        os.write(connection, json.dumps(answer).encode())


def _supervise(connection: int, request: int, *files: int) -> Role:
    """Runs one request, replies how it ended and exits. In a sandboxed child, returns the role to run."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        settings = json.loads(os.pread(request, os.fstat(request).st_size, 0))
        run = _Run(settings, files)
        role = run.start()
        if role is not None:
            return role
        answer = run.watch()
    except _Failure as e:
        answer = dict(zip(("ending", "text"), e.args, strict=True))
    except (MemoryError, OSError) as e:
        answer = {"ending": "no_resources", "text": str(e) or "no memory"}
    except Exception:  # noqa: BLE001 - a bug of the sandbox, which the caller raises
        answer = {"ending": "error", "text": traceback.format_exc()}
    _reply(connection, answer)
    os._exit(0)


class _Process:
    """A sandboxed process, seen by its supervisor."""

    def __init__(self, pid: int, status: socket.socket) -> None:
        self._pid, self._status = pid, status
        self.ended = os.pidfd_open(pid)
        self.listener = self._folder = -1

    def get_ready(self) -> None:
        """Waits until the process is restricted. Raises _Failure."""
        self._status.settimeout(START_TIMEOUT)
        try:
            message, descriptors, _, _ = socket.recv_fds(self._status, 1000, 2)
            if message == restrict.FILES_RESTRICTED:
                self._folder, *listeners = descriptors
                self.listener = listeners[0] if listeners else -1
                message = self._status.recv(1000)
        except (TimeoutError, ValueError):
            raise _Failure("no_resources", "the sandbox did not get ready") from None
        finally:
            self._status.close()
        if message != restrict.READY:
            code, _, text = message.decode("utf-8", "replace").partition(" ")
            temporary = not code.isdigit() or int(code) in _NO_RESOURCES
            ending = "no_resources" if temporary else "unsupported"
            raise _Failure(ending, text or "the sandbox ended before it was ready")

    def allow_thread(self) -> None:
        """Answers the kernel's question whether the process may start one more thread."""
        question = bytearray(80)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, question)
            (identity,) = struct.unpack_from("Q", question)
            # At the start of a line, since a program may name itself "Threads: 1".
            free = int(self._read("status").partition("\nThreads:")[2].split()[0]) < THREADS
            answer = struct.pack("QqiI", identity, 0, 0 if free else -errno.EAGAIN, _CONTINUE if free else 0)
            fcntl.ioctl(self.listener, _SEND, bytearray(answer))
        except OSError as e:
            if e.errno not in (errno.ENOENT, errno.ESRCH, errno.EINTR):  # it ended, or will ask again
                raise

    def waited(self) -> tuple[float, bool]:
        """Seconds that the process waited for a processor, and whether it waits now.

        The seconds are those of the thread that waited longest, up to when it last ran.
        """
        seconds, ready = 0.0, False
        try:
            tasks = os.open("task", os.O_RDONLY, dir_fd=self._folder)
            try:
                for task in os.listdir(tasks):
                    seconds = max(seconds, int(self._read(f"task/{task}/schedstat").split()[1]) / 1e9)
                    # The state follows the name, which the program chooses and which may hold brackets.
                    ready |= self._read(f"task/{task}/stat").rpartition(") ")[2][:1] == "R"
            finally:
                os.close(tasks)
        except (FileNotFoundError, ProcessLookupError):
            pass  # the process or one of its threads is gone
        return seconds, ready

    def _read(self, name: str) -> str:
        file = os.open(name, os.O_RDONLY, dir_fd=self._folder)
        try:
            return os.read(file, 1 << 16).decode("ascii", "replace")
        finally:
            os.close(file)

    def end(self, timeout: float, seconds: float) -> str:
        """Kills the process group after `timeout`; returns how the process ended, or "running".

        Raises _Failure if the system killed it.
        """
        by_itself = bool(select.select([self.ended], [], [], timeout)[0])
        for kill in (os.killpg, os.kill):
            with contextlib.suppress(ProcessLookupError):
                kill(self._pid, signal.SIGKILL)  # not reaped yet, so the id is not reused
        _, status, used = os.wait4(self._pid, 0)
        code, cpu = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
        # The kernel applies the limit to ticks, which on a busy machine are ahead of the time it reports.
        by_limit = code == -signal.SIGXCPU or (code == -signal.SIGKILL and cpu > 0.5 * math.ceil(seconds))
        if cpu > seconds or (by_itself and by_limit):
            return "slow"
        if not by_itself:
            return "running"
        if code == -signal.SIGKILL:  # the program cannot send it to itself
            raise _Failure("no_resources", "the system killed a program, as it does when memory runs out")
        return "killed" if code < 0 else "raised" if code else "done"


class _Run:
    """The processes of one request: the program, and one for its assertions if there are some."""

    def __init__(self, settings: dict[str, Any], files: tuple[int, ...]) -> None:
        self._settings, self._files = settings, files
        self._processes: list[_Process] = []

    def start(self) -> Role | None:
        """Starts the processes and waits until they are ready. In each of them, returns its role."""
        setup, code = self._settings["setup"], self._settings["code"]
        *standard, assertions, report = self._files
        if not self._settings["asserts"]:
            return self._fork(Role("program", setup, code), standard)
        to_program, from_assertions = os.pipe()
        to_assertions, from_program = os.pipe()
        role = self._fork(Role("answering", setup, code), [*standard, to_program, from_program])
        if role is None:
            null = os.open(os.devnull, os.O_RDWR)
            descriptors = [null, null, null, to_assertions, from_assertions, assertions, report]
            role = self._fork(Role("asserting", "", ""), descriptors)
        if role is None:
            for pipe in (to_program, from_assertions, to_assertions, from_program):
                os.close(pipe)  # so that each process notices the end of the other
        return role

    def _fork(self, role: Role, descriptors: list[int]) -> Role | None:
        supervisor = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            restrict.die_with_parent(supervisor)
            restrict.enter_sandbox(theirs.detach(), descriptors, self._settings)
            return role
        theirs.close()
        process = _Process(pid, ours)
        self._processes.append(process)
        process.get_ready()
        return None

    def watch(self) -> dict[str, Any]:
        """Waits for the end or enforces it, and returns the answer. No process is left."""
        seconds = self._settings["seconds"]
        timeout = self._wait(2 * seconds + STARTUP)
        program, last = self._processes[0], self._processes[-1]
        # If the assertions met the end of the program, the way it ended is the reason of the failure.
        ended_early = b'"ended_early"' in os.pread(self._files[-1], 1 << 20, 0)
        endings = [p.end(1.0 if p is program and ended_early else 0.0, seconds) for p in self._processes]
        if timeout == "starved":
            return {"ending": "no_resources", "text": "no processor was free for a program"}
        if timeout:
            return {"ending": timeout}
        if endings[-1] in ("slow", "killed") and last is not program:
            return {"ending": endings[-1]}
        return {"ending": "done" if endings[0] == "running" else endings[0]}

    def _wait(self, allowed: float) -> str:
        """Waits for the last process: "" if it ended, "slow", or "starved" if no processor was free."""
        poll = select.poll()
        poll.register(self._processes[-1].ended, select.POLLIN)
        listeners = {process.listener: process for process in self._processes if process.listener >= 0}
        for listener in listeners:
            poll.register(listener, select.POLLIN)
        start, waited = time.monotonic(), 0.0
        while True:
            passed = time.monotonic() - start
            for descriptor, event in poll.poll(max(0.0, allowed + waited - passed) * 1000):
                if descriptor not in listeners:
                    return ""
                if event & select.POLLIN:
                    listeners[descriptor].allow_thread()
                else:
                    poll.unregister(descriptor)  # its process is gone
            if passed < allowed + waited:
                continue
            waits = [process.waited() for process in self._processes]
            before, waited = waited, max(waited, sum(seconds for seconds, _ in waits))
            if waited < before + 0.1 * allowed:
                if not any(ready for _, ready in waits):
                    return "slow"
                waited += 0.1 * allowed  # the kernel counts the current wait only once the process runs
            if passed > MAX_WAIT * allowed:
                return "starved"


def main() -> None:
    """Serves requests on a socket whose descriptor is the first argument."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in _PRELOADED:
        importlib.import_module(name)
    os.chdir("/")
    restrict.isolate()
    gc.freeze()  # keeps loaded pages shared with all programs, as a collection would copy them
    role = serve(control)
    if role is not None:
        role.run()
