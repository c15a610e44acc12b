import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.engine import worker_pool
from pipeline.hardware import cores

# A module that takes seconds to load, as those of filters do, and its functions.
SLOW = """
import pathlib, time
here = pathlib.Path(__file__).parent
(here / f"loading").touch()
if (here / "ready").exists():
    time.sleep(5)
    (here / "loaded").touch()
def work(shared, name):
    (here / name).write_text(shared)
    time.sleep(60)
"""
PARENT = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import slow
from pipeline.engine import worker_pool
(slow.here / "ready").touch()
list(worker_pool.parallel_map(slow.work, "said", [(f"did{i}",) for i in range(4)], 10**6))
"""


def double(by: int, number: int) -> int:
    return by * number


def fail(_: None, number: int) -> None:
    raise OSError(24, f"Too many open files for {number}")


def below(pid: int) -> set[int]:
    """Living processes below this one."""
    done = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    children = {int(child) for child, parent, state in lines if int(parent) == pid and state[0] not in "ZX"}
    return children.union(*map(below, children))


def living(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="with one core the parent works alone")
@pytest.mark.parametrize("moment", ["started", "loading", "working"])
def test_processes_of_a_killed_parent_end_at_any_moment(tmp_path: Path, moment: str) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    try:
        wait_until(lambda: (tmp_path / "ready").exists())
        (tmp_path / "loading").unlink()
        wait_until(lambda: len(below(parent.pid)) >= 2)  # multiprocessing's tracker and a worker
        if moment == "loading":
            wait_until(lambda: (tmp_path / "loading").exists())
        if moment == "working":
            wait_until(lambda: any(tmp_path.glob("did*")))
        children = below(parent.pid)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_until(lambda: not any(map(living, children)))
    if moment != "working":
        assert not (tmp_path / "loaded").exists()
        assert not any(tmp_path.glob("did*"))


def test_results_arrive_in_order_from_one_process_or_several() -> None:
    todo = [(i,) for i in range(9)]
    for rows in (1, 10**6):
        assert list(worker_pool.parallel_map(double, 3, todo, rows)) == [3 * i for i in range(9)]


def test_results_do_not_pile_up_when_the_caller_is_slow() -> None:
    todo = iter([(i,) for i in range(200)])
    results = worker_pool.parallel_map(double, 3, todo, 10**6)
    assert next(results) == 0
    time.sleep(1)
    assert len(list(todo)) > 199 - 2 * worker_pool.AHEAD * len(cores())
    assert len(list(results)) < 2 * worker_pool.AHEAD * len(cores())


def test_a_system_error_in_a_worker_keeps_its_errno() -> None:
    with pytest.raises(OSError, match="Too many open files") as caught:
        list(worker_pool.parallel_map(fail, None, [(1,), (2,)], 10**6))
    assert caught.value.errno == 24
