"""Programs that try to escape from the sandbox or to harm others; each victim is made here.

`python -m tests.escapes` prints the names of the successful ones as JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filters.sandbox.runner import run
from filters.sandbox.syscalls import BY_ARGUMENT, PLAIN

MACHINE = os.uname().machine
COLUMN = 0 if MACHINE == "x86_64" else 1
_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.restype = ctypes.c_void_p

# Precedes each program: `attempt` prints what succeeded.
HELP = """
import ctypes, errno, fcntl, os, signal, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
def attempt(name, function, *arguments):
    try:
        result = function(*arguments)
    except (OSError, ValueError, OverflowError, RuntimeError):
        return
    if result not in (-1, 2**64 - 1):
        print(name, result)
def call(name, number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *arguments)
    if result != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
        print(name, result, ctypes.get_errno())
"""


def number(name: str) -> int:
    return (PLAIN.get(name) or BY_ARGUMENT[name][0])[COLUMN]


# uretprobe and uprobe, on x86_64: no filter sees them, and the kernel ends a process that calls them itself.
_OUTSIDE = {335, 336}


def every_other_call() -> str:
    """All numbers that are not listed, with arguments that are harmless if the call succeeds."""
    named = (*PLAIN.values(), *(numbers for numbers, _ in BY_ARGUMENT.values()))
    others = set(range(600)) - {numbers[COLUMN] for numbers in named} - _OUTSIDE
    return f"for number in {sorted(others)!r}:\n    call(number, number, 0, 0, 0, 0, 0, 0)"


def by_argument(victim: int) -> str:
    kill, tgkill, ioctl, fcntl, prlimit, prctl, clone = (
        number(name) for name in ("kill", "tgkill", "ioctl", "fcntl", "prlimit64", "prctl", "clone")
    )
    return f"""
me, reading, writing = os.getpid(), *os.pipe()
for target in ({victim}, os.getppid(), 1, 0, -1, -{victim}, me + 1):
    for sent in (0, 9, 15, 29):
        call("kill", {kill}, target, sent)
        call("tgkill", {tgkill}, target, target, sent)
for sent in (9, 19, 20, 21, 22):
    call("kill itself", {kill}, me, sent)
    call("tgkill itself", {tgkill}, me, me, sent)
owner = ctypes.create_string_buffer(struct.pack("i", {victim}))
for command in (0x8901, 0x5452, 0x8902, 0x5412, 0x540E, 0x5410, 0x541D, 0x6609, 0x40049409, 0xC0185879):
    for file in (0, 1, reading, writing):
        call("ioctl", {ioctl}, file, command, owner)
for command in (6, 7, 8, 10, 15, 1024, 1026, 1031, 1033):
    call("fcntl", {fcntl}, reading, command, {victim})
limit = ctypes.create_string_buffer(struct.pack("QQ", 1, 1))
for kind in [k for k in range(16) if k != 3]:
    call("prlimit", {prlimit}, 0, kind, limit, 0)
for target in (1, {victim}, os.getppid()):
    call("prlimit of another", {prlimit}, target, 3, limit, 0)
for option in (1, 4, 8, 22, 24, 28, 29, 31, 35, 36, 38, 47, 0x59616D61):
    call("prctl", {prctl}, option, 0, 0, 0, 0)
for flags in (17, 0, 0x10000, 0x4111, 0x10000000 | 17, 0x20000000 | 17, 0x3D0F00 | 0x10000000, 0x100):
    call("clone", {clone}, flags, 0, 0, 0, 0)
"""


FILES = """
import os
secret, folder = {secret!r}, {folder!r}
for path in (
    "/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/self/mem", "/proc/1/cmdline", "/root", "/",
    "/tmp", "/dev/shm", "/dev/tty", "/dev/mem", "/sys/kernel", "/proc", secret, folder,
):
    attempt("open " + path, os.open, path, os.O_RDONLY)
for name, function, *arguments in (
    ("create", open, "x", "w"), ("create", open, folder + "/x", "w"), ("mkdir", os.mkdir, folder + "/d"),
    ("write", open, secret, "a"), ("truncate", os.truncate, secret, 0), ("remove", os.remove, secret),
    ("rename", os.rename, secret, folder + "/y"), ("link", os.link, secret, folder + "/z"),
    ("symlink", os.symlink, "/", folder + "/s"), ("chmod", os.chmod, secret, 0o777), ("nice", os.nice, 1),
    ("chown", os.chown, secret, os.getuid(), -1), ("utime", os.utime, secret), ("chroot", os.chroot, "/"),
    ("xattr", os.setxattr, secret, "user.x", b"1"), ("mknod", os.mknod, folder + "/n"), ("fork", os.fork),
    ("unnamed", os.open, folder, os.O_TMPFILE | os.O_RDWR), ("setuid", os.setuid, 0), ("setsid", os.setsid),
    ("exec", os.execv, "/bin/true", ["true"]), ("memfd", os.memfd_create, "m"),
    ("spawn", os.posix_spawn, "/bin/true", ["true"], {{}}), ("pidfd", os.pidfd_open, os.getppid()),
    ("priority", os.setpriority, 0, os.getppid(), 19),
):
    attempt(name, function, *arguments)
"""

SIGNAL_BY_SOCKET = """
pair = (ctypes.c_int * 2)()
attempt("socketpair", libc.socketpair, 1, 1, 0, pair)
for file in (0, 1, 2, *pair):
    attempt("owner", fcntl.ioctl, file, 0x8901, struct.pack("i", {victim}))
    attempt("owner", fcntl.fcntl, file, 8, {victim})
    attempt("async", fcntl.ioctl, file, 0x5452, struct.pack("i", 1))
os.write(1, b"")
"""

DATAGRAM = """
for kind in (1, 2, 5):
    pair = (ctypes.c_int * 2)()
    attempt("socketpair", libc.socketpair, 1, kind, 0, pair)
    for file in range(8):
        try:
            socket.socket(socket.AF_UNIX, kind, fileno=file).sendto(b"out", {name!r})
        except OSError:
            continue
        print("sent")
"""

STREAM = """
attempt("connect", socket.create_connection, ("127.0.0.1", {port}), 1)
for family, kind in ((2, 1), (2, 2), (10, 1), (1, 1), (1, 2), (16, 3), (17, 3), (40, 1)):
    attempt(family, socket.socket, family, kind)
"""

SYSTEM_V = """
attempt("attach", libc.shmat, {memory}, None, 0), attempt("remove memory", libc.shmctl, {memory}, 0, None)
attempt("send", libc.msgsnd, {queue}, b"12345678x", 1, 0)
attempt("remove queue", libc.msgctl, {queue}, 0, None)
attempt("remove semaphore", libc.semctl, {semaphore}, 0, 0), attempt("list", libc.shmctl, 0, 14, bytes(200))
attempt("make", libc.shmget, 0, 4096, 0o1600)
"""

THREADS = """
import _thread, threading, time
threading.stack_size(32768)
libc.prctl(15, b"Threads: 1) S 1", 0, 0, 0)
count = 0
try:
    for _ in range(1000):
        _thread.start_new_thread(time.sleep, (9,))
        count += 1
except RuntimeError:
    pass
if count > 128:
    print(count)
os._exit(0)
"""


@contextlib.contextmanager
def _system_v() -> Iterator[dict[str, int]]:
    private = 0o600 | 0o1000
    made = {
        "memory": _libc.shmget(0, 4096, private),
        "queue": _libc.msgget(0, private),
        "semaphore": _libc.semget(0, 1, private),
    }
    try:
        yield made
    finally:
        gone = [
            _libc.shmctl(made["memory"], 0, None),
            _libc.msgctl(made["queue"], 0, None),
            _libc.semctl(made["semaphore"], 0, 0),
        ]
        assert gone == [0, 0, 0], "a program has removed them"


def _facts(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mode, status.st_mtime_ns, status.st_size


def _said(code: str) -> str:
    """What a program printed, or how it ended."""
    ran = run(HELP + code, seconds=5, memory_mb=512)
    said = ran.output.decode() + ("" if ran.ending == "done" else f"{ran.ending} {ran.error}")
    return said.strip()


def escapes() -> dict[str, str]:
    """What escaped, by the name of the attempt."""
    found = {}
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        os.chmod(folder, 0o777)
        secret = Path(folder, "secret")
        secret.write_text("secret")
        secret.chmod(0o666)
        before = _facts(secret)
        victim = stack.enter_context(subprocess.Popen(["sleep", "60"]))
        stack.callback(victim.kill)
        for name in (str(Path(folder, "socket")), f"\0victim-{os.getpid()}"):
            server = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            server.bind(name)
            server.setblocking(False)
            found[f"datagram {name!r}"] = _said(DATAGRAM.format(name=name))
            with contextlib.suppress(BlockingIOError):
                found[f"datagram received {name!r}"] = server.recv(9).decode()
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        found["stream"] = _said(STREAM.format(port=listener.getsockname()[1]))
        with _system_v() as made:
            found["system v"] = _said(SYSTEM_V.format(**made))
        found["files"] = _said(FILES.format(secret=str(secret), folder=folder))
        found["every other call"] = _said(every_other_call())
        found["by argument"] = _said(by_argument(victim.pid))
        found["signal by socket"] = _said(SIGNAL_BY_SOCKET.format(victim=victim.pid))
        found["threads"] = _said(THREADS)
        if victim.poll() is not None:
            found["victim"] = f"ended with {victim.returncode}"
        if before != _facts(secret):
            found["file"] = "changed"
        left = sorted(path.name for path in Path(folder).iterdir() if path.name not in ("secret", "socket"))
        if left:
            found["folder"] = f"has {left}"
    return {name: said for name, said in found.items() if said}


if __name__ == "__main__":
    print(json.dumps(escapes()))
