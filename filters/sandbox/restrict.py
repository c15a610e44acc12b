"""Irrevocable restrictions of a process before it runs an untrusted program.

Two features of Linux do most of it, without privileges and in containers. Landlock denies all files except
Python's own, and TCP ports, signals and abstract sockets if the kernel supports that (6.7, 6.12). A seccomp
filter allows only the system calls that a program needs to compute (`filters.sandbox.syscalls`). If possible
the process also has its own user id and its own user, process and System V namespaces (`isolate`). Root's
capabilities are dropped, and resource limits bound the rest.
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

from filters.sandbox.syscalls import ARCHITECTURES, allow_list, thread_filter

FILES_RESTRICTED, READY = b"files restricted", b"ready"  # messages of a process to its supervisor
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38  # linux/prctl.h
_SIGKILL = 9
_SECCOMP = {"x86_64": 317, "aarch64": 277}  # number of seccomp(2)
_SET_MODE_FILTER, _NEW_LISTENER = 1, 8  # linux/seccomp.h
_NAMESPACES = 0x10000000 | 0x20000000 | 0x08000000  # user, process, System V (linux/sched.h)
_MOUNT_NAMESPACE = 0x00020000
_BIND, _RECURSIVE, _PRIVATE = 1 << 12, 1 << 14, 1 << 18  # linux/mount.h
_UNUSED_IDS = range(61184, 65520)  # systemd's ids for short-lived services, below the end of a container's
_NOBODY = 65534
_MAX_FILES = 64  # open at once

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _checked(what: str, result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def die_with_parent(parent: int) -> None:
    """Makes the kernel kill this process when its parent, which has this id, ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() not in (parent, 0):  # 0 if the parent is in another namespace
        os._exit(1)


def isolate() -> None:
    """Takes an unused user id and new namespaces, as far as the system permits.

    With new namespaces, this process forks; the parent only waits for the child and then exits.
    """
    if os.getuid() == 0:
        with contextlib.suppress(OSError):
            _make_reachable(sys.base_prefix)
        _take_unused_id()
    if _libc.unshare(_NAMESPACES) < 0:
        return
    parent = os.getpid()
    if child := os.fork():
        os.closerange(0, 256)  # so that the caller notices the end of the child
        os.waitpid(child, 0)
        os._exit(0)
    die_with_parent(parent)


def _make_reachable(folder: str) -> None:
    """If other users may not enter a folder above this one, such as root's home, mounts an empty one over it.

    Only this process and its children see that mount, in a mount namespace, which needs root's privileges.
    """
    above = ["/", *map(str, reversed([*Path(folder).parents][:-1]))]
    closed = next((path for path in above if not os.stat(path).st_mode & 0o001), None)
    if closed is None:
        return
    _checked("a mount namespace", _libc.unshare(_MOUNT_NAMESPACE))
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    way = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    _mount("none", closed, "tmpfs", 0, "mode=755,size=1m")
    os.makedirs(folder)
    _mount(f"/proc/self/fd/{way}", folder, None, _BIND)
    os.close(way)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    texts = [text and text.encode() for text in (source, target, kind)]
    _checked(f"mount {target}", _libc.mount(*texts, ctypes.c_ulong(flags), options.encode()))


def _take_unused_id() -> None:
    """Changes to an id without an account, or nobody's, unless it could not read Python's own files."""
    own = _UNUSED_IDS[os.getpid() % len(_UNUSED_IDS)]
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


def enter_sandbox(status: int, descriptors: list[int], settings: dict[str, Any]) -> None:
    """Restricts a new process, which keeps only these descriptors, numbered from 0.

    Reports to the supervisor on the socket `status`; after an error it exits.
    """
    try:
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < _MAX_FILES:
            raise OSError(errno.EMFILE, f"fewer than {_MAX_FILES} open files are allowed (ulimit -n)")
        os.setsid()
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 40) for descriptor in (*descriptors, status)]
        for number, descriptor in enumerate(high[:-1]):
            os.dup2(descriptor, number)
        status = os.dup2(high[-1], 39)
        os.closerange(len(descriptors), status)
        os.closerange(status + 1, 1 << 20)
        folder = os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
        _set_limits(math.ceil(settings["seconds"]), settings["memory"], settings["output"])
        sent = [folder]
        if settings["protect"]:
            sent.append(_restrict_files_and_threads())
        with socket.socket(fileno=os.dup(status)) as end:
            socket.send_fds(end, [FILES_RESTRICTED], sent)
        for descriptor in sent:
            os.close(descriptor)
        if settings["protect"]:
            _filter(allow_list(os.uname().machine, os.getpid()))
        os.write(status, READY)
        os.close(status)
    except (OSError, MemoryError) as e:
        os.write(status, f"{getattr(e, 'errno', None) or errno.ENOSYS} {e}".encode()[:1000])
        os._exit(1)


def _set_limits(seconds: int, memory: int, output: int) -> None:
    """Limits CPU seconds, bytes of address space and bytes of each file."""
    for what, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),  # first a signal that tells the reason
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, output, output),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, _MAX_FILES, _MAX_FILES),
        (resource.RLIMIT_MEMLOCK, 0, 0),
    ):
        inherited = resource.getrlimit(what)[1]
        if inherited != resource.RLIM_INFINITY and inherited < hard:
            raise OSError(
                errno.EPERM, f"a limit of this shell is {inherited} (ulimit -H), below the program's {hard}"
            )
        resource.setrlimit(what, (soft, hard))


def _restrict_files_and_threads() -> int:
    """Drops files and privileges; returns a descriptor on which the kernel asks before it starts a thread.

    Raises OSError if the kernel does not support it.
    """
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in ARCHITECTURES:
        raise OSError(f"no sandbox for {sys.platform} on {machine}")
    _checked("no_new_privs", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked("capset", _libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24)))
    _restrict_files()
    return _filter(thread_filter(machine), _NEW_LISTENER)


def _filter(code: bytes, flags: int = 0) -> int:
    """Adds a seccomp filter. Raises OSError if the kernel does not support it."""
    program = ctypes.byref(_Program(len(code) // 8, code))
    number = _SECCOMP[os.uname().machine]
    return _checked("seccomp", _libc.syscall(number, _SET_MODE_FILTER, flags, program))


def _restrict_files() -> None:
    """Landlock (linux/landlock.h): only Python's own files can be opened, and no file can be written."""
    create, add, restrict = 444, 445, 446
    abi = _checked("Landlock", _libc.syscall(create, None, 0, 1))
    files = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1  # all rights that this kernel knows
    networks, scopes = 0b11, 0b11  # bind and connect; abstract sockets and signals
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
