"""kill -9 at random moments, torn journals: nothing lost, nothing asked twice, the same bytes."""

import random
import signal
import subprocess
import time
from pathlib import Path

from pipeline.rows import Trace
from pipeline.store import Output
from tests.conftest import StartFakeServer
from tests.e2e.runs import PROBLEMS, SAMPLES, retort, sealed, start, write_recipe

KILLS = 8


def tear(folder: Path, rng: random.Random) -> None:
    """Cut some bytes off the end of a journal, as a crash in mid-write does."""
    for journal in folder.glob("*.jsonl"):
        journal.write_bytes(journal.read_bytes()[: -rng.randint(1, 30)])
        return


def wait_for_rows(process: subprocess.Popen[str], output: Output, rows: int) -> None:
    while output.counts().rows < rows and process.poll() is None:
        time.sleep(0.01)


def test_a_run_killed_again_and_again_ends_as_one_never_killed(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    rng = random.Random(7)
    server = fake_server("--latency", "0.1")
    recipe = str(write_recipe(tmp_path, server.url))
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for runs in (calm, killed):
        assert retort(runs, "ingest", recipe).returncode == 0
    assert retort(calm, "generate", recipe).returncode == 0

    output = Output(killed / "test" / "generate", Trace)
    for _ in range(KILLS):
        process = start(killed, "generate", recipe, f"generate.concurrency={rng.choice([1, 4, 16])}")
        wait_for_rows(process, output, output.counts().rows + rng.randint(1, 10))
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        tear(output.folder, rng)

    held, before = output.counts().rows, server.stats()["requests"]
    assert 0 < held < PROBLEMS * SAMPLES
    assert retort(killed, "generate", recipe).returncode == 0
    assert server.stats()["requests"] - before == PROBLEMS * SAMPLES - held
    assert sealed(output.folder) == sealed(calm / "test" / "generate")
    assert len({trace.id for trace in output.rows()}) == PROBLEMS * SAMPLES


def test_a_stop_signal_keeps_what_finished_and_says_so(tmp_path: Path, fake_server: StartFakeServer) -> None:
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
        assert "the same command goes on" in err
    held, before = output.counts().rows, server.stats()["requests"]
    assert retort(tmp_path, "generate", recipe).returncode == 0
    assert server.stats()["requests"] - before == PROBLEMS * SAMPLES - held
