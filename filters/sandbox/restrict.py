"""What a process gives up, for good, before it runs a program that nobody vouches for.

Two parts of Linux do it, and both work without privileges and within containers. Landlock takes all files but
Python's own from it, and the network, and where the kernel knows of them (6.12) signals and abstract sockets.
A seccomp filter allows the few system calls that a program needs to compute (`filters.sandbox.syscalls`).
Besides, where they can be had, it has an id of its own and namespaces of users, processes and System V's
objects (`step_away`). The capabilities of root are dropped, and limits on resources bound the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import math
import os
import pwd
import resource
import socket
import struct
import sys
from pathlib import Path
from typing import Any

from filters.sandbox.syscalls import ARCHITECTURES, allow_list, asks_for_threads

READY = b"ready"  # said once a process has given up what it must not have
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38  # linux/prctl.h
_SIGKILL = 9
_SECCOMP_MODE_FILTER = 2
_SECCOMP = {"x86_64": 317, "aarch64": 277}  # the number of seccomp(2)
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8  # linux/seccomp.h
_NAMESPACES = 0x10000000 | 0x20000000 | 0x08000000  # of users, of processes, of System V (linux/sched.h)
_MOUNTS = 0x00020000
_BIND, _RECURSIVE, _PRIVATE = 1 << 12, 1 << 14, 1 << 18  # linux/mount.h
_NO_ACCOUNTS = range(61184, 65520)  # ids that systemd keeps for short-lived services, below a container's end
_NOBODY = 65534
_FILES = 64  # that a program may have open

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _checked(what: str, result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def die_with(parent: int) -> None:
    """End this process when its parent ends, which has this id."""
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() not in (parent, 0):  # 0: a parent in another namespace
        os._exit(1)


def step_away() -> None:
    """Take an id that nobody has, and namespaces of its own, as far as this system lets it.

    With namespaces, a process stays behind that ends with the one that goes on.
    """
    if os.getuid() == 0:
        with contextlib.suppress(OSError):
            _open_the_way(sys.base_prefix)
        _take_an_id()
    if _libc.unshare(_NAMESPACES) < 0:
        return
    keeper = os.getpid()
    if child := os.fork():
        os.closerange(0, 256)  # the other end must see it when the child is gone
        os.waitpid(child, 0)
        os._exit(0)
    die_with(keeper)


def _open_the_way(folder: str) -> None:
    """Where others may not enter a folder above this one, as root's home, put an empty one before it.

    Only this process and what it starts see that: it takes a mount namespace, which takes root's privileges.
    """
    above = ["/", *map(str, reversed([*Path(folder).parents][:-1]))]
    closed = next((path for path in above if not os.stat(path).st_mode & 0o001), None)
    if closed is None:
        return
    _checked("a mount namespace", _libc.unshare(_MOUNTS))
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    way = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    _mount("none", closed, "tmpfs", 0, "mode=755,size=1m")
    os.makedirs(folder)
    _mount(f"/proc/self/fd/{way}", folder, None, _BIND)
    os.close(way)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    texts = [text and text.encode() for text in (source, target, kind)]
    _checked(f"mount {target}", _libc.mount(*texts, ctypes.c_ulong(flags), options.encode()))


def _take_an_id() -> None:
    """Unless this id could not read Python's own files."""
    own = _NO_ACCOUNTS[os.getpid() % len(_NO_ACCOUNTS)]
    for number in (own, _NOBODY):
        if number != _NOBODY and _has_account(number):
            continue
        try:
            os.setegid(number)
            os.seteuid(number)
            for folder in filter(os.path.isdir, sys.path):
                os.listdir(folder)
            with open(os.__file__, "rb"):
                pass
        except OSError:
            os.seteuid(0)
            os.setegid(0)
            continue
        os.seteuid(0)
        os.setgroups([])
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
        return


def _has_account(number: int) -> bool:
    try:
        pwd.getpwuid(number)
    except KeyError:
        return False
    return True


def lock_up(status: int, descriptors: list[int], asked: dict[str, Any]) -> None:
    """In a new process: keep these descriptors, as 0, 1, 2 and so on, and give up everything else."""
    try:
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < _FILES:
            raise OSError(errno.EMFILE, f"fewer than {_FILES} open files are allowed (ulimit -n)")
        os.setsid()
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 40) for descriptor in (*descriptors, status)]
        for number, descriptor in enumerate(high[:-1]):
            os.dup2(descriptor, number)
        status = os.dup2(high[-1], 39)
        os.closerange(len(descriptors), status)
        os.closerange(status + 1, 1 << 20)
        folder = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
        _limit(math.ceil(asked["seconds"]), asked["memory"], asked["output"])
        given = [folder]
        if asked["protect"]:
            given.append(_give_up_files())
        with socket.socket(fileno=os.dup(status)) as end:
            socket.send_fds(end, [b"given up"], given)
        for descriptor in given:
            os.close(descriptor)
        if asked["protect"]:
            _give_up_calls()
        os.write(status, READY)
        os.close(status)
    except (OSError, MemoryError) as e:
        os.write(status, f"{getattr(e, 'errno', None) or errno.ENOSYS} {e}".encode()[:1000])
        os._exit(1)


def _limit(seconds: int, memory: int, output: int) -> None:
    """Bound CPU seconds, bytes of address space and of each file."""
    for what, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),  # first a signal that says why
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, output, output),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, _FILES, _FILES),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        most = resource.getrlimit(what)[1]
        if most != resource.RLIM_INFINITY and most < hard:
            raise OSError(
                errno.EPERM, f"a limit of this shell is {most} (ulimit -H), below the program's {hard}"
            )
        resource.setrlimit(what, (soft, hard))


def _give_up_files() -> int:
    """Give up files and privileges; a descriptor on which the kernel asks before it makes a thread.

    Raises OSError where the kernel cannot.
    """
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        raise OSError(f"no sandbox for {sys.platform} on {machine}")
    _checked("no_new_privs", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked("capset", _libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24)))
    _restrict_files()
    program = _program(asks_for_threads(machine))
    return _checked(
        "seccomp with a listener",
        _libc.syscall(_SECCOMP[machine], _SET_MODE_FILTER, _NEW_LISTENER, ctypes.byref(program)),
    )


def _give_up_calls() -> None:
    """Allows only the system calls of `filters.sandbox.syscalls`. Raises OSError where the kernel cannot."""
    program = _program(allow_list(os.uname().machine, os.getpid()))
    _checked("seccomp", _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0))


def _program(code: bytes) -> _Program:
    return _Program(len(code) // 8, code)


def _restrict_files() -> None:
    """Landlock (linux/landlock.h): nothing but Python's own files can be opened, and nothing written."""
    create, add, restrict = 444, 445, 446
    abi = _checked("Landlock", _libc.syscall(create, None, 0, 1))
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1  # every right that this kernel knows
    networks, scopes = 0b11, 0b11  # to bind and to connect; abstract sockets and signals
    attribute = struct.pack("QQQ", files, networks, scopes)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _checked("Landlock", _libc.syscall(create, attribute, len(attribute), 0))
    read_file, read_folder = 1 << 2, 1 << 3
    folders = [os.path.dirname(os.__file__), *filter(os.path.isdir, sys.path), "/lib", "/lib64", "/usr/lib"]
    single = ["/dev/null", "/dev/zero", "/dev/urandom", "/etc/localtime", "/etc/ld.so.cache"]
    for path, rights in [(p, read_file | read_folder) for p in [*folders, "/usr/share/zoneinfo"]] + [
        (p, read_file) for p in single
    ]:
        if os.path.exists(path):
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", rights, beneath)
            _checked("Landlock", _libc.syscall(add, ruleset, 1, rule, 0))
            os.close(beneath)
    _checked("Landlock", _libc.syscall(restrict, ruleset, 0))
    os.close(ruleset)
