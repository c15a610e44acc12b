"""The system calls allowed in the sandbox, as a seccomp filter (seccomp(2), classic BPF).

This is an allow-list: any other call fails with EPERM, including those that future kernels add. It contains
what CPython and its standard library need to compute, to read the files that Landlock permits, to run threads
and to wait. No allowed call creates a process, a socket or a System V object, changes a file, its attributes
or another process, or leaves anything behind. Some are allowed only with certain arguments. The numbers are
those of x86_64 and aarch64.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

_NONE = -1  # aarch64 lacks some older calls
PLAIN: dict[str, tuple[int, int]] = {
    # read and write open descriptors
    "read": (0, 63), "write": (1, 64), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65),
    "writev": (20, 66), "lseek": (8, 62), "close": (3, 57), "close_range": (436, 436), "dup": (32, 23),
    "dup2": (33, _NONE), "dup3": (292, 24), "pipe": (22, _NONE), "pipe2": (293, 59), "fsync": (74, 82),
    "fadvise64": (221, 223), "eventfd2": (290, 19),
    # open for reading and query files, as far as Landlock permits
    "open": (2, _NONE), "openat": (257, 56), "stat": (4, _NONE), "fstat": (5, 80), "lstat": (6, _NONE),
    "newfstatat": (262, 79), "statx": (332, 291), "access": (21, _NONE), "faccessat": (269, 48),
    "faccessat2": (439, 439), "getdents64": (217, 61), "readlink": (89, _NONE), "readlinkat": (267, 78),
    "getcwd": (79, 17), "chdir": (80, 49), "umask": (95, 166),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "brk": (12, 214),
    "madvise": (28, 233), "membarrier": (324, 283),
    # threads, waiting, clocks
    "futex": (202, 98), "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293),
    "gettid": (186, 178), "exit": (60, 93), "exit_group": (231, 94), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_getscheduler": (145, 120), "sched_getparam": (143, 121),
    "getcpu": (309, 168), "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, _NONE), "times": (100, 153),
    "select": (23, _NONE), "pselect6": (270, 72), "poll": (7, _NONE), "ppoll": (271, 73),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, _NONE), "epoll_pwait": (281, 22),
    # its own signals and timers
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "pause": (34, _NONE), "alarm": (37, _NONE),
    "getitimer": (36, 102), "setitimer": (38, 103),
    # information about itself and the system
    "getpid": (39, 172), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgid": (121, 155), "getpgrp": (111, _NONE), "getsid": (124, 156),
    "getpriority": (140, 141), "uname": (63, 160), "sysinfo": (99, 179), "getrusage": (98, 165),
    "getrlimit": (97, 163), "getrandom": (318, 278),
}  # fmt: skip


class Argument(NamedTuple):
    """A condition on half of an argument: it is one of the values, or none of them."""

    word: int  # 0 and 1 are the low and high half of the first argument, 2 and 3 of the second, ...
    values: tuple[int, ...]
    within: bool = True


_DEADLY = (9, 19, 20, 21, 22)  # SIGKILL and stop signals: only the supervisor may send them
_THREAD = (0x3D0F00, 0x7D0F00)  # the flags of a new thread in glibc and in musl
_STACK = 3  # RLIMIT_STACK, which programs raise for deep recursion
OWN_ID = -1  # stands for the id of the process itself

# Calls with the alternative conditions under which each is allowed.
BY_ARGUMENT: dict[str, tuple[tuple[int, int], tuple[tuple[Argument, ...], ...]]] = {
    "clone": ((56, 220), ((Argument(0, _THREAD),),)),
    "kill": ((62, 129), ((Argument(0, (OWN_ID,)), Argument(2, _DEADLY, False)),)),
    "tgkill": ((234, 131), ((Argument(0, (OWN_ID,)), Argument(4, _DEADLY, False)),)),
    # TCGETS and TCGETS2 (is it a terminal), TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    "ioctl": ((16, 29), ((Argument(2, (0x5401, 0x802C542A, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),),)),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
    "fcntl": ((72, 25), ((Argument(2, (0, 1, 2, 3, 4, 1030)),),)),
    # read all its own limits, change that of its stack
    "prlimit64": (
        (302, 261),
        (
            (Argument(0, (0,)), Argument(2, (_STACK,))),
            (Argument(0, (0,)), Argument(4, (0,)), Argument(5, (0,))),
        ),
    ),
    "setrlimit": ((160, 164), ((Argument(0, (_STACK,)),),)),
    "prctl": ((157, 167), ((Argument(0, (15, 16)),),)),  # PR_SET_NAME, PR_GET_NAME
}
# These fail with ENOSYS, so that libraries use clone, whose flags a filter can read.
_MISSING = {"clone3": (435, 435)}
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH of linux/audit.h
_X32 = 0x40000000  # the second numbering of x86_64

# Operations of classic BPF (linux/bpf_common.h): load a word, compare, jump, return.
_LOAD, _EQUAL, _AT_LEAST, _JUMP, _RETURN = 0x20, 0x15, 0x35, 0x05, 0x06
_ALLOW, _ERRNO, _KILL, _ASK = 0x7FFF0000, 0x00050000, 0x80000000, 0x7FC00000  # linux/seccomp.h


def allow_list(machine: str, pid: int) -> bytes:
    """The filter for a process with this id, on this architecture."""
    column, _ = ARCHITECTURES[machine]
    code = _prologue(machine)
    for numbers in PLAIN.values():
        if numbers[column] != _NONE:
            code += _if_number(numbers[column], _do(_RETURN, _ALLOW))
    for numbers, ways in BY_ARGUMENT.values():
        body = b"".join(_way(way, pid) for way in ways) + _do(_RETURN, _ERRNO | errno.EPERM)
        code += _if_number(numbers[column], body)
    for numbers in _MISSING.values():
        code += _if_number(numbers[column], _do(_RETURN, _ERRNO | errno.ENOSYS))
    return code + _do(_RETURN, _ERRNO | errno.EPERM)


def thread_filter(machine: str) -> bytes:
    """A filter that makes the kernel ask the supervisor about each clone (SECCOMP_RET_USER_NOTIF)."""
    numbers, _ = BY_ARGUMENT["clone"]
    asking = _if_number(numbers[ARCHITECTURES[machine][0]], _do(_RETURN, _ASK))
    return _prologue(machine) + asking + _do(_RETURN, _ALLOW)


def _prologue(machine: str) -> bytes:
    """Loads the number of the call; ends a process that uses another architecture's numbers."""
    code = (
        _do(_LOAD, 4) + _do(_EQUAL, ARCHITECTURES[machine][1], then=1) + _do(_RETURN, _KILL) + _do(_LOAD, 0)
    )
    if machine == "x86_64":
        code += _do(_AT_LEAST, _X32, otherwise=1) + _do(_RETURN, _KILL)
    return code


def _if_number(number: int, body: bytes) -> bytes:
    return _do(_EQUAL, number, otherwise=len(body) // 8) + body


def _way(arguments: tuple[Argument, ...], pid: int) -> bytes:
    """Allows the call if all conditions hold, else continues after this code."""
    code = _do(_RETURN, _ALLOW)
    for argument in reversed(arguments):
        behind = len(code) // 8
        values = [pid if value == OWN_ID else value for value in argument.values]
        test = _do(_LOAD, 16 + 4 * argument.word)  # of struct seccomp_data, little-endian
        for left, value in zip(range(len(values) - 1, -1, -1), values, strict=True):
            test += _do(_EQUAL, value, then=left + (1 if argument.within else behind))
        code = test + (_do(_JUMP, behind) if argument.within else b"") + code
    return code


def _do(operation: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", operation, then, otherwise, value)
