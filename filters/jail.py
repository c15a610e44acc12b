"""The inside of the sandbox: a script that gives up what a program must not have, then runs it.

Started by `filters.sandbox`, with the standard library alone on its path. It imports as little as can be, to
be ready in milliseconds.

Two parts of Linux do it, and both work without privileges and within containers. Landlock takes all files
but Python's own from it. A seccomp filter refuses the system calls by which a program starts another one,
reaches another process or a network, changes a file's attributes, or leaves something behind in the kernel.
The capabilities of root are dropped, and limits on resources bound the rest.

Protects from: what a model may write, and from common tricks. Does not protect from errors in the kernel, nor
from learning what is no secret (the machine's name, its processors, which files exist). Leaves out what the
program's output means (`filters.code`).
"""

import builtins
import ctypes
import errno
import marshal
import os
import resource
import struct
import sys
import types
from _collections_abc import Mapping, Set  # collections.abc would load all of collections

READY = b"ready\n"  # written once the protection stands; what comes before it is why it does not
UNKNOWN = "\x1a"  # before a value that may equal a plain one, nobody knows; no text of a value holds it

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38  # linux/prctl.h
_SIGKILL = 9
_SECCOMP_MODE_FILTER = 2

# Refused system calls: their numbers on x86_64 and aarch64 (None where it has none).
_REFUSED = {
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    "unshare": (272, 97), "setns": (308, 268), "socket": (41, 198), "io_uring_setup": (425, 425),
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "kcmp": (312, 272), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "setpriority": (141, 140),
    "ioprio_set": (251, 30), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122), "sched_setattr": (314, 274), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "truncate": (76, 45), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "removexattrat": (466, 466), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186), "mq_open": (240, 180), "mq_unlink": (241, 181), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
}  # fmt: skip
_CLONE3 = 435
# Allowed only where an argument is as it should be: these numbers are used below.
_BY_ARGUMENT = {
    "clone": (56, 220), "kill": (62, 129), "tgkill": (234, 131), "prlimit64": (302, 261), "fcntl": (72, 25),
    "prctl": (157, 167),
}  # fmt: skip
_ARCHITECTURES = {
    "x86_64": (0, 0xC000003E),
    "aarch64": (1, 0xC00000B7),
}  # column, AUDIT_ARCH of linux/audit.h
_X32 = 0x40000000  # the second numbering of x86_64
_CLONE_THREAD = 0x10000
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15  # a pipe that sends signals to another process

# Operations of classic BPF (linux/bpf_common.h): load a word; compare; return.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000  # linux/seccomp.h


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _instruction(operation: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("HBBI", operation, then, otherwise, value)


def _if_argument(number: int, argument: int, test: int, values: list[int], *, allow: bool) -> bytes:
    """For one system call: whether any test of an argument's low word holds decides."""
    allowed, refused = _instruction(_RETURN, _ALLOW), _instruction(_RETURN, _ERRNO | errno.EPERM)
    hit, miss = (allowed, refused) if allow else (refused, allowed)
    body = _instruction(_LOAD, 16 + 8 * argument)  # of struct seccomp_data, little-endian
    for left, value in zip(range(len(values), 0, -1), values, strict=True):
        body += _instruction(test, value, then=left)  # over the tests that are left, and the miss
    body += miss + hit
    return _instruction(_EQUAL, number, otherwise=len(body) // 8) + body


def _seccomp_code(machine: str, pid: int) -> bytes:
    column, architecture = _ARCHITECTURES[machine]
    code = _instruction(_LOAD, 4) + _instruction(_EQUAL, architecture, then=1) + _instruction(_RETURN, _KILL)
    code += _instruction(_LOAD, 0)
    if machine == "x86_64":
        code += _instruction(_AT_LEAST, _X32, otherwise=1) + _instruction(_RETURN, _KILL)
    refused = {numbers[column]: errno.EPERM for numbers in _REFUSED.values() if numbers[column] is not None}
    for number, error in {**refused, _CLONE3: errno.ENOSYS}.items():  # threads then use clone
        code += _instruction(_EQUAL, number or 0, otherwise=1) + _instruction(_RETURN, _ERRNO | error)
    number_of = {name: numbers[column] for name, numbers in _BY_ARGUMENT.items()}
    code += _if_argument(number_of["clone"], 0, _ANY_BIT, [_CLONE_THREAD], allow=True)
    code += _if_argument(number_of["kill"], 0, _EQUAL, [pid], allow=True)
    code += _if_argument(number_of["tgkill"], 0, _EQUAL, [pid], allow=True)
    code += _if_argument(number_of["prlimit64"], 0, _EQUAL, [0], allow=True)
    code += _if_argument(number_of["fcntl"], 1, _EQUAL, [_F_SETOWN, _F_SETSIG, _F_SETOWN_EX], allow=False)
    code += _if_argument(number_of["prctl"], 0, _EQUAL, [_PR_SET_PDEATHSIG], allow=False)
    return code + _instruction(_RETURN, _ALLOW)


def _checked(what: str, result: int) -> int:
    if result < 0:
        raise OSError(f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _restrict_files(libc: ctypes.CDLL) -> None:
    """Landlock (linux/landlock.h): nothing but Python's own files can be opened, and nothing written."""
    create, add, restrict = 444, 445, 446
    abi = _checked("Landlock", libc.syscall(create, None, 0, 1))
    handled = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(abi, 16)) - 1  # every right that this kernel knows
    read_file, read_folder = 1 << 2, 1 << 3
    attribute = struct.pack("Q", handled)
    ruleset = _checked("Landlock", libc.syscall(create, attribute, len(attribute), 0))
    folders = [os.path.dirname(os.__file__), *filter(os.path.isdir, sys.path), "/lib", "/lib64", "/usr/lib"]
    files = ["/dev/null", "/dev/zero", "/dev/urandom", "/etc/localtime", "/etc/ld.so.cache"]
    for path, rights in [(p, read_file | read_folder) for p in [*folders, "/usr/share/zoneinfo", "."]] + [
        (p, read_file) for p in files
    ]:
        if os.path.exists(path):
            beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", rights, beneath)
            _checked("Landlock", libc.syscall(add, ruleset, 1, rule, 0))
            os.close(beneath)
    _checked("Landlock", libc.syscall(restrict, ruleset, 0))
    os.close(ruleset)


def protect() -> None:
    """Give up files, processes and networks, for good. Raises OSError where the kernel cannot."""
    machine = os.uname().machine
    if sys.platform != "linux" or machine not in _ARCHITECTURES:
        raise OSError(f"no sandbox for {sys.platform} on {machine}")
    libc = ctypes.CDLL(None, use_errno=True)
    _checked("no_new_privs", libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked("capset", libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24)))
    _restrict_files(libc)
    code = _seccomp_code(machine, os.getpid())
    program = _Program(len(code) // 8, code)
    _checked("seccomp", libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0))


def limit(seconds: int, memory: int, output: int, parent: int) -> None:
    """Bound CPU seconds, bytes of address space and of each output; end when the parent does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("the parent has ended")
    for what, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, output),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(what, (most, most))


def canonical(value: object) -> str:
    """One text for all plain values that are equal in Python; of others, one that equals no plain value's."""
    if isinstance(value, int):
        return hex(value)
    if isinstance(value, float):
        return hex(int(value)) if value.is_integer() else float.__repr__(value)
    if value is None:
        return "None"
    if isinstance(value, complex):
        return canonical(value.real) if value.imag == 0 else complex.__repr__(value)
    if isinstance(value, str):
        return str.__repr__(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes.__repr__(bytes(value))
    if isinstance(value, list | tuple):
        left, right = "[]" if isinstance(value, list) else "()"
        return left + ",".join(map(canonical, value)) + right
    if isinstance(value, Set):
        return "set{" + ",".join(sorted(map(canonical, value))) + "}"
    if isinstance(value, Mapping):
        return "{" + ",".join(sorted(f"{canonical(k)}:{canonical(v)}" for k, v in value.items())) + "}"
    if type(value).__module__ in ("decimal", "fractions"):
        number = float(value)  # type: ignore[arg-type]
        return canonical(number) if number == value else f"<{value}>"
    comparable = type(value).__eq__ is not object.__eq__
    return f"{UNKNOWN if comparable else ''}<{type(value).__name__}>"


def _run(request: dict, replies: int) -> None:
    """Run the program, then say of each check what its expression is worth, a line each."""
    module = types.ModuleType(request["name"])
    sys.modules[request["name"]] = module
    space = module.__dict__
    exec(compile(request["setup"], "<setup>", "exec"), space)
    exec(compile(request["code"], "<answer>", "exec"), space)
    for kind, source in request["checks"]:
        if kind == "value":
            line = canonical(eval(compile(source, "<test>", "eval"), space))
        else:
            exec(compile(source, "<test>", "exec"), space)
            line = "passed"
        os.write(replies, line.encode("utf-8", "backslashreplace").replace(b"\n", b" ") + b"\n")


def main() -> None:
    """Arguments: the file of the request and where that starts, the file of the replies, the parent's id."""
    requests, start, replies, parent = map(int, sys.argv[1:])
    os.lseek(requests, start, os.SEEK_SET)
    with os.fdopen(requests, "rb") as file:
        request = marshal.load(file)
    try:
        limit(request["seconds"], request["memory"], request["output"], parent)
        if request["protect"]:
            protect()
    except (OSError, ValueError) as e:
        os.write(replies, str(e).encode())
        return
    os.write(replies, READY)
    sys.argv = ["answer.py"]
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # as `site` does, which is not loaded
    _run(request, replies)


if __name__ == "__main__":
    main()
