"""kill -9 at random moments and torn journals: nothing lost, nothing requested twice, the same bytes."""

import random
import signal
import subprocess
import time
from pathlib import Path

from pipeline.engine.store import Output
from pipeline.rows import Trace
from tests.conftest import FakeServer, StartFakeServer
from tests.e2e.runs import PROBLEMS, SAMPLES, retort, sealed, start, write_recipe

KILLS = 8


def tear(folder: Path, rng: random.Random) -> int:
    """Removes the end of a journal, as a crash during a write does. Returns the number of lost rows."""
    for journal in folder.glob("*.jsonl"):
        journal.write_bytes(journal.read_bytes()[: -rng.randint(1, 30)])
        return 1
    return 0


def wait_for_rows(process: subprocess.Popen[str], output: Output, rows: int) -> None:
    while output.counts().rows < rows and process.poll() is None:
        time.sleep(0.05)  # counting reads every journal


def kill_again_and_again(folder: Path, server: FakeServer, kills: int, problems: int) -> dict[str, int]:
    """Kills a run at random moments and tears its journals; compares it with an uninterrupted run.

    Each time it has another concurrency. Returns the counts of kills, rows and requests.
    """
    rng = random.Random(7)
    recipe = str(write_recipe(folder, server.url, problems))
    whole, killed = folder / "whole", folder / "killed"
    for runs in (whole, killed):
        assert retort(runs, "ingest", recipe).returncode == 0
    assert retort(whole, "generate", recipe).returncode == 0

    output = Output(killed / "test" / "generate", Trace)
    began, in_flight, torn = server.stats()["requests"], 0, 0
    for _ in range(kills):
        concurrency = rng.choice([1, 4, 16])
        process = start(killed, "generate", recipe, f"generate.concurrency={concurrency}")
        wait_for_rows(process, output, output.counts().rows + rng.randint(1, 10))
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        torn += tear(output.folder, rng)
        in_flight += concurrency

    held, before = output.counts().rows, server.stats()["requests"]
    assert 0 < held < problems * SAMPLES
    assert retort(killed, "generate", recipe).returncode == 0
    after = server.stats()["requests"]
    assert after - before == problems * SAMPLES - held
    assert after - began <= problems * SAMPLES + in_flight + torn
    assert sealed(output.folder) == sealed(whole / "test" / "generate")
    assert len({trace.id for trace in output.rows()}) == problems * SAMPLES
    return {
        "kills": kills,
        "rows": problems * SAMPLES,
        "requests": after - began,
        "most in flight at the kills": in_flight,
        "torn by the test": torn,
    }


def test_a_run_killed_many_times_ends_like_an_uninterrupted_one(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    kill_again_and_again(tmp_path, fake_server("--latency", "0.1"), KILLS, PROBLEMS)


def test_a_stop_signal_keeps_finished_rows_and_explains_how_to_resume(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--latency", "0.2")
    recipe = str(write_recipe(tmp_path, server.url))
    assert retort(tmp_path, "ingest", recipe).returncode == 0
    output = Output(tmp_path / "test" / "generate", Trace)
    for number in (signal.SIGINT, signal.SIGTERM):
        already = output.counts().rows
        process = start(tmp_path, "generate", recipe, "generate.concurrency=4")
        wait_for_rows(process, output, already + 8)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "Traceback" not in err
        assert "run the same command to resume" in err
    held, before = output.counts().rows, server.stats()["requests"]
    assert retort(tmp_path, "generate", recipe).returncode == 0
    assert server.stats()["requests"] - before == PROBLEMS * SAMPLES - held
