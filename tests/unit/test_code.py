"""Programs against tests, in the sandbox: right ones, wrong ones, hostile ones."""

import json
import marshal
import os
import platform
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from filters.code import last_block, passes_tests, run_tests, same_output
from filters.jail import _ARCHITECTURES, _BY_ARGUMENT, _REFUSED, canonical
from filters.sandbox import OUTPUT_LIMIT, run
from tests.unit.test_filters import a_trace

CASES = [json.loads(line) for line in Path("tests/cases/code.jsonl").read_text("utf-8").splitlines()]
LIMITS = {"seconds": 1.0, "memory_mb": 256}
TESTS = json.dumps({"tests": [{"input": "2 3", "output": "5"}]})


def said_by(code, **changes):
    return run(code, **(LIMITS | changes)).output.decode()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_program_is_judged_by_its_tests(case):
    finding = run_tests(case["code"], json.dumps(case["tests"]), **(LIMITS | case.get("limits", {})))
    assert (finding.outcome, finding.reason) == (case["outcome"], case["reason"]), finding.evidence


def test_the_filter_takes_the_last_block_of_python():
    good, bad = "print(sum(map(int, input().split())))", "print(0)"
    for response, reason in (
        (f"First:\n```python\n{bad}\n```\nBetter:\n```python\n{good}\n```\nSo be it.", ""),
        (f"```python\n{good}\n```\nIt prints:\n```\n5\n```\nor with a shell\n```bash\npython x.py\n```", ""),
        (f"```\n{good}\n```", ""),
        (f"~~~py\n{good}\n~~~", ""),
        (f"```python\n{good}\n```\n```python\n{bad}\n```", "wrong_output"),
        (good, "no_answer"),
        (f"```python\n{good}", "no_answer"),
    ):
        trace = a_trace(response=response, metadata=TESTS)
        assert passes_tests(trace).reason == reason, response
    assert passes_tests(a_trace(response="```\nx\n```")).reason == "no_tests"


def test_a_block_of_four_marks_may_hold_three():
    assert last_block("````python\ns = '''\n```\n'''\n````\n") == "s = '''\n```\n'''\n"
    assert last_block("```" * 100_000) is None


def test_outputs_are_compared_word_by_word():
    assert same_output("1 2\n3\n", "1 2 \n3")
    assert same_output("1000000.5", "1000000.6")
    assert not same_output("1 2", "12")
    assert not same_output("0.5", "0.5 0.5")
    assert not same_output("0.5", "inf")


def test_equal_values_have_one_canonical_text():
    for a, b in (
        (1, 1.0),
        (True, 1),
        (0.0, -0.0),
        ({1: 2, 3: 4}, {3: 4, 1: 2}),
        ({1, 2}, {2, 1.0}),
        (1 + 0j, 1),
    ):
        assert canonical(a) == canonical(b)
    for a, b in (
        (1, "1"),
        ([1], (1,)),
        (b"a", "a"),
        (None, "None"),
        ((1, 2), ("1,2",)),
        ({}, set()),
        (10**20, 1e21),
    ):
        assert canonical(a) != canonical(b)
    assert canonical(["a,b"]) != canonical(["a", "b"])
    assert canonical(object()).startswith("<")


def test_the_program_sees_no_environment_and_an_empty_folder(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "secret")
    seen = said_by("import os; print(dict(os.environ), os.listdir('.'))")
    assert "secret" not in seen
    assert "[]" in seen
    assert run("import os; open(f'/proc/{os.getppid()}/environ')", **LIMITS).errors.startswith(
        "PermissionError"
    )


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    said_by(f"import os\ntry:\n    os.mkdir('{tmp_path}/x')\nexcept OSError:\n    open('y', 'w')")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "attempt",
    [
        "os.chmod({path!r}, 0o777)",
        "os.truncate({path!r}, 0)",
        "os.utime({path!r})",
        "os.remove({path!r})",
        "os.rename({path!r}, {path!r} + 'x')",
        "os.link({path!r}, 'x')",
        "os.symlink('/', 'x')",
        "os.setxattr({path!r}, 'user.x', b'')",
        "open({path!r}).read()",
        "os.listdir(os.path.dirname({path!r}))",
        "os.chown({path!r}, 1, 1)",
        "os.sched_setaffinity(os.getppid(), [0])",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "__import__('resource').prlimit(os.getppid(), 7, (9, 9))",
        "__import__('fcntl').fcntl(0, 8, os.getppid())",
        "os.pidfd_open(os.getppid())",
        "os.memfd_create('x')",
        "os.posix_spawn('/bin/true', ['true'], {{}})",
        "os.fork()",
        "os.forkpty()",
        "__import__('socket').socket(__import__('socket').AF_UNIX)",
        "__import__('multiprocessing.shared_memory').shared_memory.SharedMemory(create=True, size=9)",
        "os.setuid(1)",
    ],
)
def test_what_the_program_must_not_do_is_refused(attempt, tmp_path):
    path = tmp_path / "file"
    path.write_text("text")
    before = path.stat()
    code = (
        f"import os\ntry:\n    {attempt.format(path=str(path))}\nexcept OSError as e:\n    print('refused')"
    )
    assert said_by(code) == "refused\n"
    after = path.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_nlink) == (before.st_mode, before.st_mtime_ns, 1)
    assert path.read_text() == "text"


def test_system_calls_that_are_made_by_hand_are_refused_too():
    call = "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.syscall({}), ctypes.get_errno())"
    numbers = {
        name: _REFUSED[name][_ARCHITECTURES[platform.machine()][0]] for name in ("socket", "unshare", "bpf")
    }
    for number in numbers.values():
        assert said_by(call.format(f"{number}, 2, 1, 0")) == "-1 1\n"
    if platform.machine() == "x86_64":
        assert run(call.format("0x40000000 + 39"), **LIMITS).ending == "killed"


def test_a_server_of_ours_is_not_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        code = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        assert run(code, **LIMITS).ending == "raised"
        with pytest.raises(TimeoutError):
            server.accept()


def test_output_is_bounded():
    assert len(said_by("while True: print('x' * 10000)", seconds=5)) <= OUTPUT_LIMIT


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_what_is_not_protected_is_still_killed_with_all_it_started(tmp_path):
    pid_file = tmp_path / "pid"
    note = f"open({str(pid_file)!r}, 'w').write(str(os.getpid()))"
    code = f"import os, time\nif os.fork() == 0:\n    {note}\ntime.sleep(1000)"
    assert run(code, seconds=0.5, memory_mb=256, sandbox="limits").ending == "slow"
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 30  # it was told to die; when it does is the kernel's to say
    while is_alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_its_kernel_features_the_sandbox_says_so_and_runs_nothing(monkeypatch):
    monkeypatch.setattr("filters.sandbox._JAIL_CODE", _jail_on("another machine"))
    finding = run_tests("print(5)", TESTS, **LIMITS)
    assert (finding.outcome, finding.reason) == ("unknown", "sandbox_unavailable")
    assert "another machine" in finding.evidence
    assert run_tests("print(5)", TESTS, **LIMITS, sandbox="limits").outcome == "pass"


def _jail_on(machine):
    source = Path("filters/jail.py").read_text().replace("os.uname().machine", repr(machine))
    return marshal.dumps(compile(source, "jail.py", "exec"))


def test_programs_run_side_by_side_in_threads():
    findings = []
    threads = [
        threading.Thread(target=lambda: findings.append(run_tests("print(5)", TESTS, seconds=5.0)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [f.outcome for f in findings] == ["pass"] * 8


def test_a_program_ends_with_its_parent(tmp_path):
    code = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from filters.sandbox import run; run({code!r}, seconds=60, memory_mb=256, sandbox='limits')",
        ]
    )
    pid_file = tmp_path / "pid"
    while not (pid_file.exists() and pid_file.read_text()):
        assert parent.poll() is None
    child = os.pidfd_open(int(pid_file.read_text()))
    parent.kill()
    parent.wait()
    poll = select.poll()
    poll.register(child, select.POLLIN)
    assert poll.poll(10_000)
    os.close(child)


def test_the_numbers_of_system_calls_are_those_of_the_kernels_headers():
    headers = Path("/usr/include") / f"{platform.machine()}-linux-gnu/asm/unistd_64.h"
    if not headers.exists():
        pytest.skip("no kernel headers here")
    known = {
        words[1].removeprefix("__NR_"): int(words[2])
        for words in (line.split() for line in headers.read_text().splitlines())
        if len(words) == 3 and words[1].startswith("__NR_")
    }
    column = _ARCHITECTURES[platform.machine()][0]
    for name, numbers in (_REFUSED | _BY_ARGUMENT).items():
        if name in known:
            assert numbers[column] == known[name], name
