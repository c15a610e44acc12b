"""The sandbox: nothing gets out of it, nothing is left of it, and what the machine lacks is no verdict."""

import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import filters
from filters.sandbox.python_tests import run_tests
from filters.sandbox.runner import OUTPUT_LIMIT, _keeper, run
from filters.sandbox.syscalls import _MISSING, ARCHITECTURES, BY_ARGUMENT, PLAIN, allow_list
from pipeline.errors import Stopped, UserError
from tests.escapes import escapes
from tests.unit.test_filters import a_trace

LIMITS = {"seconds": 1.0, "memory_mb": 256}
TESTS = json.dumps({"tests": [{"input": "2 3", "output": "5"}]})
RIGHT = "print(sum(map(int, input().split())))"
USER = 61000  # an id that no account has
POLL = f"import sys; sys.path[:0] = {[os.getcwd(), *filter(os.path.isdir, sys.path)]!r}\n"


def said_by(code, **changes):
    return run(code, **(LIMITS | changes)).output.decode()


def python_of(user):
    """A Python that this user may run, which one in root's home is not."""
    for python in (sys.executable, "/usr/bin/python3"):
        try:
            probe = [python, "-c", POLL + "import filters"]
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


def test_nothing_gets_out():
    assert escapes() == {}


def test_nothing_gets_out_of_an_ordinary_users():
    assert as_user(USER, "from tests.escapes import escapes; print(escapes())") == "{}\n"


def test_nothing_gets_out_where_there_are_no_namespaces():
    """As in many containers: here there is one in which no more can be made."""
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


def test_roots_programs_run_under_an_id_of_their_own():
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


def test_the_program_sees_no_environment_and_no_folder(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "secret")
    seen = said_by("import os; print(dict(os.environ), os.getcwd())")
    assert "secret" not in seen
    assert seen.endswith(" /\n")


@pytest.mark.parametrize("user", [None, USER], ids=["as we are", "as an ordinary user"])
def test_what_is_expected_is_nowhere_in_the_programs_process(user):
    """Neither among its objects, nor in its files, nor in the memory around them."""
    code = "from tests.unit.test_sandbox import look_for_expected; look_for_expected()"
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
    finding = run_tests(LOOK, json.dumps({"asserts": asserts}), seconds=20, memory_mb=512)
    assert finding.evidence == "assert 1: 'nothing'", finding
    tests = json.dumps({"tests": [{"output": "expected-of-this-test"}]})
    finding = run_tests(LOOK + "print(found())", tests, seconds=20, memory_mb=512)
    assert finding.evidence == "test 1: nothing\n", finding


def test_nothing_is_needed_of_and_left_in_the_temporary_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    monkeypatch.setattr("tempfile.tempdir", None)
    _keeper.stop()
    assert run_tests(RIGHT, TESTS, **LIMITS).outcome == "passed"
    assert list(tmp_path.iterdir()) == []


def test_output_is_bounded():
    assert len(said_by("while True: print('x' * 10000)", seconds=5)) <= OUTPUT_LIMIT


def test_calls_by_the_other_numbers_of_the_processor_end_the_program():
    if platform.machine() != "x86_64":
        pytest.skip("x86_64 alone has others")
    assert run("import ctypes; ctypes.CDLL(None).syscall(0x40000000 + 39)", **LIMITS).ending == "killed"


def test_the_filter_is_made_for_both_architectures():
    assert len({allow_list(machine, 7) for machine in ARCHITECTURES}) == len(ARCHITECTURES) == 2


def test_the_numbers_of_system_calls_are_those_of_the_kernels_headers():
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
def test_without_a_part_of_it_a_filter_is_refused_in_one_line(what, text, tmp_path, monkeypatch):
    """A system that lacks it is another machine, or a number that no system call has."""
    package = tmp_path / "filters"
    package.mkdir()
    for path in Path("filters").glob("*.py"):
        source = path.read_text()
        other = "'vax'" if "machine" in what else "9944, 9945, 9946"
        (package / path.name).write_text(source.replace(what, other) if path.name == "jail.py" else source)
    package.chmod(0o755), tmp_path.chmod(0o755)
    monkeypatch.setattr(_keeper, "_arguments", [str(package)])
    _keeper.stop()
    try:
        trace = a_trace(response=f"```python\n{RIGHT}\n```", metadata=TESTS, answer_type="python")
        with pytest.raises(UserError, match=f'{text}.*docs/sandbox.md.*sandbox = "limits"') as caught:
            filters.judge(trace, {"correct": {}})
        assert "\n" not in str(caught.value)
        assert filters.judge(trace, {"correct": {"sandbox": "limits"}}).verdicts[0].outcome == "passed"
    finally:
        _keeper.stop()


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
    assert done.stdout.startswith("stopped: no p"), done.stdout + done.stderr


def test_a_limit_of_the_shell_below_the_programs_is_an_error():
    code = LACKING.format(what=resource.RLIMIT_FSIZE, most=1 << 20, code=RIGHT, tests=TESTS)
    done = subprocess.run([sys.executable, "-c", POLL + code], capture_output=True, text=True, timeout=60)
    assert re.match(r"wrong: .*a limit of this shell is 1048576 \(ulimit -H\)", done.stdout), done


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_too_few_processes_are_no_verdict(most):
    said = as_user(
        USER + most, LACKING.format(what=resource.RLIMIT_NPROC, most=most, code=RIGHT, tests=TESTS)
    )
    assert said.startswith(("stopped: no p", "stopped: the sandbox has ended")), said


def test_a_program_that_the_system_kills_for_want_of_memory_gets_no_verdict():
    raised = []

    def judge():
        try:
            run_tests("import time; time.sleep(30)", TESTS, seconds=20, memory_mb=256)
        except Stopped as e:
            raised.append(str(e))

    assert run_tests(RIGHT, TESTS, **LIMITS).outcome == "passed"
    keeper = _keeper._server._process.pid
    thread = threading.Thread(target=judge)
    thread.start()
    os.kill(wait_for(lambda: asleep(keeper))[0], signal.SIGKILL)  # as the kernel would
    thread.join()
    assert "memory runs out" in raised[0]
    assert run_tests(RIGHT, TESTS, **LIMITS).outcome == "passed"


def test_a_keeper_that_is_killed_is_no_verdict_and_another_takes_its_place():
    assert run_tests(RIGHT, TESTS, **LIMITS).outcome == "passed"
    keeper = _keeper._server._process
    thread_said = []

    def judge():
        try:
            thread_said.append(run_tests("import time; time.sleep(30)", TESTS, seconds=20, memory_mb=256))
        except Stopped as e:
            thread_said.append(str(e))

    thread = threading.Thread(target=judge)
    thread.start()
    kept = wait_for(lambda: asleep(keeper.pid)) and descendants(keeper.pid)
    keeper.kill()
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


def test_what_is_not_protected_is_still_killed_with_all_it_started():
    say = "print(os.readlink('/proc/self'), flush=True)"
    code = f"import os, time\n{say}\nif os.fork() == 0:\n    {say}\ntime.sleep(1000)"
    ran = run(code, seconds=0.5, memory_mb=256, sandbox="limits")
    assert ran.ending == "slow"
    pids = list(map(int, ran.output.split()))
    assert len(pids) == 2
    wait_for(lambda: not any(map(runs, pids)))


def test_a_program_is_given_time_when_others_have_the_processors():
    """Of one processor it gets a ninth: its time takes longer than twice its seconds and one."""
    os.sched_setaffinity(0, allowed := {min(before := os.sched_getaffinity(0))})
    _keeper.stop()
    busy_ones = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(8)]
    try:
        code = "import time\nwhile time.process_time() < 0.45: pass\nprint(5)"
        assert run_tests(code, TESTS, seconds=1.0, memory_mb=256).outcome == "passed", allowed
    finally:
        for each in busy_ones:
            each.kill()
            each.wait()
        _keeper.stop()
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


def asleep(keeper: int) -> list[int]:
    """The programs of a keeper that run under its filter, and wait."""
    return [p for p in descendants(keeper) if state(p) == "S" and "Seccomp:\t2" in status(p)]


def busy(pids: list[int]) -> list[int]:
    """Those that run and lead a session, as each program does."""
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
