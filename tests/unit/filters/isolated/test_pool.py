"""The checking process: shared by threads and coroutines, on time, and never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from filters.isolated import pool

LONG = r"\sum_{n=1}^{1000000000} \sin(n^2)"


def same(reference, answer, seconds=5.0):
    return pool.check("math", {"reference": reference, "answer": answer}, seconds)


def test_it_serves_threads():
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: same("x+1", f"{n}+x"), range(8)))
    assert answers == ["incorrect", "correct", *["incorrect"] * 6]


def test_it_serves_coroutines():
    async def ask():
        return await asyncio.gather(*(asyncio.to_thread(same, "x+1", f"{n}+x") for n in range(4)))

    assert asyncio.run(ask()) == ["incorrect", "correct", "incorrect", "incorrect"]


def test_a_late_check_is_ended_and_the_next_one_works():
    assert same("7", LONG, seconds=0.3) == "timeout"
    assert same("x+1", "1+x") == "correct"


def test_a_checker_that_cannot_start_is_an_error_and_no_outcome():
    with pytest.raises(pool.CheckerError, match="no_such_task"):
        pool.check("reasoning_gym", {"entry": {"task": "no_such_task", "settings": {}}, "answers": []}, 5.0)


def test_api_keys_do_not_reach_the_checking_process(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert "secret" not in pool._environment().values()


@pytest.mark.parametrize("answer", ["1+x", LONG], ids=["idle", "busy"])
def test_it_ends_with_a_killed_parent(answer):
    arguments = {"reference": "x+1", "answer": answer}
    program = f"from filters.isolated import pool\npool.check('math', {arguments}, 1.5)\n"
    keep = "import time; time.sleep(60)\n"
    parent = subprocess.Popen(
        [sys.executable, "-c", program + keep], env=os.environ | {"PYTHONPATH": os.getcwd()}
    )
    child = _wait_for(lambda: _children(parent.pid))[0]
    if answer != LONG:
        _wait_for(lambda: _cpu_is_still(child))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _wait_for(lambda: not _runs(child))


def test_a_forked_process_starts_its_own_checking_process():
    program = (
        "import os\nfrom filters.isolated import pool\n"
        "ask = lambda answer: pool.check('math', {'reference': 'x+1', 'answer': answer}, 5.0)\n"
        "assert ask('1+x') == 'correct'\n"
        "child = os.fork()\n"
        "outcomes = [ask('1+x') for _ in range(5)], [ask('2+x') for _ in range(5)]\n"
        "assert outcomes == (['correct'] * 5, ['incorrect'] * 5)\n"
        "assert child == 0 or os.waitpid(child, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"PYTHONPATH": os.getcwd()})


def _wait_for(condition):
    for _ in range(600):
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("waited 30 s in vain")


def _children(pid):
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _stat(pid):
    """The fields of /proc/PID/stat from the state on; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return []


def _runs(pid):
    return _stat(pid)[:1] not in ([], ["Z"])


def _cpu_is_still(pid):
    before = _stat(pid)[11:13]
    time.sleep(0.5)
    return _stat(pid)[11:13] == before and before != ["0", "0"]
