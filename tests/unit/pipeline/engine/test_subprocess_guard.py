"""Child: its command never outlives it. The tests run real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.engine.subprocess_guard import Child

# Writes its own pid and that of a helper in another session to the file it is given, then sleeps.
FAMILY = """
import os, subprocess, sys, time
helper = [sys.executable, "-c", sys.argv[2] + "import time; time.sleep(600)"]
helper = subprocess.Popen(helper, start_new_session=True)
exec(sys.argv[2])
open(sys.argv[1] + "~", "w").write(f"{os.getpid()} {helper.pid}")
os.rename(sys.argv[1] + "~", sys.argv[1])
time.sleep(600)
"""
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "

# Starts a Child, forks a worker that inherits every open file, then sleeps.
PARENT = """
import os, sys, time
from pathlib import Path
from pipeline.engine.subprocess_guard import Child
child = Child(sys.argv[2:], Path(sys.argv[1]))
worker = os.fork()
if worker:
    print(worker, flush=True)
time.sleep(600)
"""


def family(pids: Path, prelude: str = "") -> list[str]:
    return [sys.executable, "-c", FAMILY, str(pids), prelude]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def read_pids(path: Path) -> list[int]:
    wait_until(path.exists)
    return [int(pid) for pid in path.read_text().split()]


def test_the_exit_code_is_passed_on_and_both_streams_are_logged(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log"
    code = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(7)"
    assert Child(python(code), log).wait(20) == 7
    assert Child(python("print('again')"), log).wait(20) == 0
    assert sorted(log.read_text().split()) == ["again", "err", "out"]


def test_a_command_killed_by_a_signal_exits_as_in_a_shell(tmp_path: Path) -> None:
    assert Child(python("import os; os.kill(os.getpid(), 9)"), tmp_path / "log").wait(20) == 128 + 9


def test_a_command_that_cannot_start_logs_the_reason(tmp_path: Path) -> None:
    child = Child(["/no/such/command"], tmp_path / "log")
    assert child.wait(20) == 127
    assert child.log_tail() == "cannot start /no/such/command: No such file or directory"


def test_the_command_sees_the_given_environment(tmp_path: Path) -> None:
    child = Child(
        python("import os; print(os.environ.get('A'), os.environ.get('HOME'))"), tmp_path / "log", {"A": "1"}
    )
    child.wait(20)
    assert child.log_tail() == "1 None"


def test_the_terminals_interrupt_does_not_reach_it(tmp_path: Path) -> None:
    child = Child(python("import os; print(os.getsid(0))"), tmp_path / "log")
    child.wait(20)
    assert int(child.log_tail()) != os.getsid(0)


def test_wait_times_out_and_the_child_keeps_running(tmp_path: Path) -> None:
    with Child(python("import time; time.sleep(600)"), tmp_path / "log") as child:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.05)
        assert child.poll() is None


def test_leaving_the_block_ends_the_command_and_its_children_in_other_sessions(tmp_path: Path) -> None:
    with Child(family(tmp_path / "pids"), tmp_path / "log") as child:
        pids = read_pids(tmp_path / "pids")
        assert all(map(alive, pids))
    assert not any(map(alive, pids))
    assert child.poll() == 128 + signal.SIGTERM
    child.stop()  # a second time does nothing


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    child = Child(family(tmp_path / "pids", DEAF), tmp_path / "log", grace=0.2)
    pids = read_pids(tmp_path / "pids")
    child.stop()
    assert not any(map(alive, pids))
    assert child.poll() == 128 + signal.SIGKILL


def test_orphans_of_a_crashed_command_are_ended(tmp_path: Path) -> None:
    child = Child(family(tmp_path / "pids", "import os; "), tmp_path / "log")
    command, helper = read_pids(tmp_path / "pids")
    os.kill(command, signal.SIGKILL)
    assert child.wait(20) == 128 + signal.SIGKILL
    assert not alive(helper)


def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    command = family(tmp_path / "pids")
    parent = subprocess.Popen([*python(PARENT), str(tmp_path / "log"), *command], stdout=subprocess.PIPE)
    assert parent.stdout
    worker = int(parent.stdout.readline())
    pids = read_pids(tmp_path / "pids")
    parent.kill()
    wait_until(lambda: not any(map(alive, pids)))
    os.kill(worker, signal.SIGKILL)  # it lived all the while: a pipe that it inherited would be open still
    parent.communicate()


def test_the_command_ends_when_its_guard_is_killed(tmp_path: Path) -> None:
    code = "import os, time; print(os.getpid(), os.getppid(), flush=True); time.sleep(600)"
    child = Child(python(code), tmp_path / "log")
    wait_until(lambda: bool(child.log_tail()))
    command, guard = map(int, child.log_tail().split())
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: not alive(command))
    assert child.wait(20) == 128 + signal.SIGKILL


def test_the_log_tail_is_plain_text_with_the_final_progress_bars(tmp_path: Path) -> None:
    said = b"\n\x1b[31mred\x1b[0m\x07\n\n 10%|#\r100%|##########\n\x1b]0;title\x07\xff end\r\n"
    child = Child(python(f"import os; os.write(1, b'x' * 300_000 + {said!r})"), tmp_path / "log")
    child.wait(20)
    assert child.log_tail(3).split("\n") == ["red", "100%|##########", "\ufffd end"]
    assert len(child.log_tail(100)) < 1000


def test_the_log_tail_excludes_earlier_runs(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("an error of yesterday\n")
    child = Child(python("print('today')"), tmp_path / "log")
    child.wait(20)
    assert child.log_tail() == "today"
