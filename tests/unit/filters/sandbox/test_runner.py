"""The sandbox: nothing escapes, nothing is left behind, and a lack of resources is no verdict."""

import json
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from filters.sandbox.python_tests import run_tests
from filters.sandbox.runner import OUTPUT_LIMIT, _fork_server, run
from filters.sandbox.syscalls import _MISSING, ARCHITECTURES, BY_ARGUMENT, PLAIN, allow_list
from filters.table import apply_rules
from pipeline.errors import Stopped, UserError
from tests.escapes import escapes
from tests.unit.filters.test_table import a_trace

LIMITS = {"seconds": 1.0, "memory_mb": 256}
TESTS = json.dumps({"tests": [{"input": "2 3", "output": "5"}]})
RIGHT = "print(sum(map(int, input().split())))"
USER = 61000  # an id that no account has
POLL = f"import sys; sys.path[:0] = {[os.getcwd(), *filter(os.path.isdir, sys.path)]!r}\n"


def said_by(code, **changes):
    return run(code, **(LIMITS | changes)).output.decode()


def python_of(user):
    """A Python that this user may run, unlike one in root's home."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            probe = [python, "-c", POLL + "import filters.table"]
            subprocess.run(probe, user=user, group=user, extra_groups=[], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    return None


def as_user(user, code, **settings):
    python = python_of(user)
    if os.getuid() != 0 or python is None:
        pytest.skip("only root becomes another user, and there must be a Python that it can run")
    done = subprocess.run(
        [python, "-c", POLL + code],
        user=user,
        group=user,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=300,
        **settings,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_escape_succeeds():
    assert escapes() == {}


def test_no_escape_succeeds_for_an_ordinary_user():
    assert as_user(USER, "from tests.escapes import escapes; print(escapes())") == "{}\n"


def test_no_escape_succeeds_without_namespaces():
    """As in many containers; here inside a user namespace that allows no further one."""
    refuse = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    alone = ["unshare", "--user", "--map-root-user", "sh", "-c", refuse, "sh"]
    try:
        subprocess.run([*alone, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this needs a namespace of users")
    code = "from tests.escapes import escapes; print(escapes())"
    done = subprocess.run(
        [*alone, sys.executable, "-c", POLL + code], capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "{}\n", done.stderr


def test_programs_of_root_run_under_another_id():
    """Also with a Python in root's home, where root may mount."""
    may_mount = int(re.search(r"CapEff:\t(\w+)", status(os.getpid()))[1], 16) & 1 << 21
    if os.getuid() != 0 or not (may_mount or python_of(USER) == sys.executable):
        pytest.skip("only root gives up an id, and only for one that can read Python's own files")
    code = (
        "from filters.sandbox.runner import run; run('import time; time.sleep(9)', seconds=1, memory_mb=256)"
    )
    with subprocess.Popen([sys.executable, "-c", POLL + code]) as parent:
        said = status(wait_for(lambda: asleep(parent.pid))[0])
        parent.kill()
    assert re.search(r"Uid:\t([1-9]\d*)\t\1\t\1\t\1\n", said)
    assert re.search(r"CapEff:\t0+\n", said)


def test_the_program_sees_no_environment_and_no_working_directory(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "secret")
    seen = said_by("import os; print(dict(os.environ), os.getcwd())")
    assert "secret" not in seen
    assert seen.endswith(" /\n")


@pytest.mark.parametrize("user", [None, USER], ids=["as we are", "as an ordinary user"])
def test_expected_values_are_nowhere_in_the_process_of_the_program(user):
    """Searches its objects, its files and its memory."""
    code = "from tests.unit.filters.sandbox.test_runner import look_for_expected; look_for_expected()"
    if user is None:
        look_for_expected()
    else:
        as_user(user, code)


LOOK = r"""
import ctypes, gc, os
libc = ctypes.CDLL(None, use_errno=True)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
needle = b"expected" + b"-of-" + b"this"
def found():
    for file in range(300):
        try:
            if needle in os.pread(file, 1 << 20, 0):
                return "file"
        except OSError:
            pass
    for thing in gc.get_objects():
        if isinstance(thing, (dict, list, tuple)) and needle.decode() in [x for x in thing if type(x) is str]:
            return "object"
    reading, writing = os.pipe()
    bases = {id(object()), id("a" * 9), libc.malloc(100), libc.malloc(1 << 16), libc.sbrk(0), id([0] * 9999)}
    seen = own = 0
    for base in bases:
        for page in range((base >> 12) - 2000, (base >> 12) + 500):
            if libc.write(writing, ctypes.c_void_p(page << 12), 4096) == 4096:
                seen += 1
                text = os.read(reading, 4096)
                if needle + b"-" in text:
                    return "memory"
                own += b"return \"memory\"" in text
    assert seen > 500, seen
    return "nothing"
def f(x):
    return found()
"""


def look_for_expected():
    asserts = [f"assert f({n}) == 'expected-of-this-test'" for n in range(2)]
    result = run_tests(LOOK, json.dumps({"asserts": asserts}), seconds=20, memory_mb=512)
    assert result.evidence == "assert 1: 'nothing'", result
    tests = json.dumps({"tests": [{"output": "expected-of-this-test"}]})
    result = run_tests(LOOK + "print(found())", tests, seconds=20, memory_mb=512)
    assert result.evidence == "test 1: nothing\n", result


def test_the_temporary_directory_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr("tempfile.tempdir", None)
    _fork_server.stop()
    assert run_tests(RIGHT, TESTS, **LIMITS).outcome == "passed"
    assert list(tmp_path.iterdir()) == []


def test_output_is_bounded():
    assert len(said_by("while True: print('x' * 10000)", seconds=5)) <= OUTPUT_LIMIT


def test_calls_by_the_numbers_of_another_architecture_end_the_program():
    if platform.machine() != "x86_64":
        pytest.skip("x86_64 alone has others")
    assert run("import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)", **LIMITS).ending == "killed"


def test_the_seccomp_filter_exists_for_both_architectures():
    assert len({allow_list(machine, 7) for machine in ARCHITECTURES}) == len(ARCHITECTURES) == 2


def test_the_numbers_of_system_calls_equal_the_kernel_headers():
    headers = ("x86_64-linux-gnu/asm/unistd_64.h", "asm-generic/unistd.h")  # aarch64 has the generic ones
    named = PLAIN | {name: numbers for name, (numbers, _) in BY_ARGUMENT.items()} | _MISSING
    checked = 0
    for column, path in enumerate(headers):
        header = Path("/usr/include", path)
        if not header.exists():
            continue
        known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
        known.setdefault("newfstatat", known.get("fstatat"))
        for name, numbers in named.items():
            assert str(numbers[column]) == known.get(name, "-1"), name
            checked += 1
    if not checked:
        pytest.skip("no kernel headers here")


@pytest.mark.parametrize(
    ("what", "text"),
    [("os.uname().machine", "no sandbox for linux on vax"), ("444, 445, 446", "Landlock: ")],
)
def test_without_a_required_part_the_rule_is_refused_in_one_line(what, text, tmp_path, monkeypatch):
    """Simulated by another machine name and by numbers that no system call has."""
    package = tmp_path / "filters"
    shutil.copytree("filters/sandbox", package / "sandbox")
    restrict = package / "sandbox" / "restrict.py"
    source, other = restrict.read_text(), "'vax'" if "machine" in what else "9944, 9945, 9946"
    assert what in source
    restrict.write_text(source.replace(what, other))
    package.chmod(0o755), tmp_path.chmod(0o755)
    monkeypatch.setattr(_fork_server, "_arguments", [str(package)])
    _fork_server.stop()
    try:
        trace = a_trace(response=f"```python\n{RIGHT}\n```", metadata=TESTS, answer_type="python")
        with pytest.raises(UserError, match=f'{text}.*docs/sandbox.md.*sandbox = "limits"') as caught:
            apply_rules(trace, {"correct": {}})
        assert "\n" not in str(caught.value)
        assert apply_rules(trace, {"correct": {"sandbox": "limits"}}).verdicts[0].outcome == "passed"
    finally:
        _fork_server.stop()


STOPPED = (
    "stopped: no program can be run: ",
    "stopped: cannot start a process: ",
    "stopped: cannot open a pipe: ",
)
LACKING = """
import os, resource, sys
from filters.sandbox.python_tests import run_tests
from pipeline.errors import Stopped, UserError
resource.setrlimit({what}, ({most}, {most}))
try:
    print(run_tests({code!r}, {tests!r}, seconds=1.0, memory_mb=256))
except Stopped as e:
    print("stopped:", e)
except UserError as e:
    print("wrong:", e)
"""


@pytest.mark.parametrize("most", [4, 6, 8, 10, 12, 50])
def test_too_few_descriptors_are_no_verdict(most):
    code = LACKING.format(what=resource.RLIMIT_NOFILE, most=most, code=RIGHT, tests=TESTS)
    done = subprocess.run([sys.executable, "-c", POLL + code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(STOPPED), done.stdout + done.stderr


def test_a_shell_limit_below_that_of_the_program_is_a_user_error():
    code = LACKING.format(what=resource.RLIMIT_FSIZE, most=1 << 20, code=RIGHT, tests=TESTS)
    done = subprocess.run([sys.executable, "-c", POLL + code], capture_output=True, text=True, timeout=60)
    assert re.match(r"wrong: .*a limit of this shell is 1048576 \(ulimit -H\)", done.stdout), done


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_too_few_processes_are_no_verdict(most):
    said = as_user(
        USER + most, LACKING.format(what=resource.RLIMIT_NPROC, most=most, code=RIGHT, tests=TESTS)
    )
    assert said.startswith((*STOPPED, "stopped: the sandbox has ended")), said


def test_a_program_killed_by_the_system_for_lack_of_memory_gets_no_verdict():
    raised = []

    def grade():
        try:
            run_tests("import time; time.sleep(30)", TESTS, seconds=20, memory_mb=256)
        except Stopped as e:
            raised.append(str(e))

    assert run_tests(RIGHT, TESTS, **LIMITS).outcome == "passed"
    server = _fork_server.process.pid
    thread = threading.Thread(target=grade)
    thread.start()
    os.kill(wait_for(lambda: asleep(server))[0], signal.SIGKILL)  # as the kernel would
    thread.join()
    assert "memory runs out" in raised[0]
    assert run_tests(RIGHT, TESTS, **LIMITS).outcome == "passed"


def test_a_killed_fork_server_gives_no_verdict_and_is_replaced():
    assert run_tests(RIGHT, TESTS, **LIMITS).outcome == "passed"
    server = _fork_server.process
    thread_said = []

    def grade():
        try:
            thread_said.append(run_tests("import time; time.sleep(30)", TESTS, seconds=20, memory_mb=256))
        except Stopped as e:
            thread_said.append(str(e))

    thread = threading.Thread(target=grade)
    thread.start()
    kept = wait_for(lambda: asleep(server.pid)) and descendants(server.pid)
    server.kill()
    thread.join()
    assert "the sandbox has ended" in thread_said[0]
    wait_for(lambda: not any(map(runs, kept)))
    assert run_tests(RIGHT, TESTS, **LIMITS).outcome == "passed"


@pytest.mark.parametrize("sandbox", ["full", "limits"])
def test_a_killed_parent_leaves_no_process_and_no_file(sandbox, tmp_path):
    settings = {"seconds": 60, "memory_mb": 256, "sandbox": sandbox}
    code = f"from filters.sandbox.runner import run\nrun('while True: pass', **{settings})"
    parent = subprocess.Popen([sys.executable, "-c", POLL + code], env=os.environ | {"TMPDIR": str(tmp_path)})
    kept = wait_for(lambda: busy(descendants(parent.pid)[2:])) and descendants(parent.pid)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(map(runs, kept)))
    assert len(kept) >= 3
    assert list(tmp_path.iterdir()) == []


def test_an_unprotected_program_is_still_killed_with_its_children():
    say = "print(os.readlink('/proc/self'), flush=True)"
    code = f"import os, time\n{say}\nif os.fork() == 0:\n    {say}\ntime.sleep(1000)"
    ran = run(code, seconds=0.5, memory_mb=256, sandbox="limits")
    assert ran.ending == "slow"
    pids = list(map(int, ran.output.split()))
    assert len(pids) == 2
    wait_for(lambda: not any(map(runs, pids)))


def test_time_without_a_free_processor_does_not_count():
    """With a ninth of a processor the program takes longer than its wall-clock limit."""
    os.sched_setaffinity(0, allowed := {min(before := os.sched_getaffinity(0))})
    _fork_server.stop()
    busy_ones = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
    try:
        code = "import time\nwhile time.process_time() < 0.45: pass\nprint(5)"
        assert run_tests(code, TESTS, seconds=1.0, memory_mb=256).outcome == "passed", allowed
    finally:
        for each in busy_ones:
            each.kill()
            each.wait()
        _fork_server.stop()
        os.sched_setaffinity(0, before)


def children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    found = children(pid)
    return [*found, *(deeper for child in found for deeper in descendants(child))]


def runs(pid: int) -> bool:
    return state(pid) not in "ZX"


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"


def asleep(server: int) -> list[int]:
    """The sandboxed programs of a fork server that are asleep."""
    return [p for p in descendants(server) if state(p) == "S" and "Seccomp:\t2" in status(p)]


def busy(pids: list[int]) -> list[int]:
    """The running session leaders; each program is one."""
    return [pid for pid in pids if state(pid) == "R" and os.getsid(pid) == pid]


def status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found
