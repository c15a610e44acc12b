"""kill -9 at random moments and torn journals: nothing lost, nothing requested twice, the same bytes."""

import random
import signal
import subprocess
import time
from pathlib import Path

from pipeline.engine.store import Output
from pipeline.rows import Trace
from tests.conftest import FakeServer, StartFakeServer
from tests.e2e.runs import PROBLEMS, SAMPLES, retort, run_stages, sealed, start, write_recipe

KILLS = 8
WORKER_SLOTS = 4  # requests in flight of each worker on a shared folder
WORKER_LATENCY = 0.25  # seconds


def tear(folder: Path, rng: random.Random) -> int:
    """Removes the end of a journal, as a crash during a write does. Returns the number of lost rows."""
    for journal in folder.glob("*.jsonl"):
        if content := journal.read_bytes():
            journal.write_bytes(content[: -rng.randint(1, 30)])
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
        run_stages(runs, recipe, "ingest")
    run_stages(whole, recipe, "generate")

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


class Attack:
    """Kills and pauses workers on one folder at random; other ones take their parts over."""

    def __init__(self, folder: Path, server: FakeServer, workers: int, problems: int) -> None:
        self.rng = random.Random(11)
        self.recipe = str(write_recipe(folder, server.url, problems))
        self.whole, self.attacked = folder / "whole", folder / "attacked"
        self.workers = workers
        self.output = Output(self.attacked / "test" / "generate", Trace)
        self.ended: list[subprocess.Popen[str]] = []
        self.paused: list[subprocess.Popen[str]] = []
        self.kills = self.pauses = 0

    def run(self, faults: int) -> None:
        for runs in (self.whole, self.attacked):
            run_stages(runs, self.recipe, "ingest")
        run_stages(self.whole, self.recipe, "generate", settings=("generate.concurrency=128",))
        parts = [self.begin(i) for i in range(self.workers)]
        while self.kills + self.pauses < faults:
            i = self.rng.randrange(self.workers)
            wait_for_rows(parts[i], self.output, self.output.counts().rows + self.rng.randint(1, 10))
            time.sleep(self.rng.uniform(0, 0.2))
            assert parts[i].poll() is None, "too few problems for so many faults"
            self.harm(parts[i])
            parts[i] = self.begin(i)
            if self.paused and self.rng.random() < 0.5:
                self.wake(self.rng.randrange(len(self.paused)))
        while self.paused:
            self.wake(0)
        for process in (*self.ended, *parts):
            _, said = process.communicate(timeout=300)
            assert process.returncode in (0, 3, -signal.SIGKILL), said
            assert "Traceback" not in said

    def begin(self, part: int) -> subprocess.Popen[str]:
        share = f"--part={part}/{self.workers}"
        return start(self.attacked, "generate", self.recipe, share, f"generate.concurrency={WORKER_SLOTS}")

    def harm(self, process: subprocess.Popen[str]) -> None:
        if self.rng.random() < 0.5:
            process.send_signal(signal.SIGSTOP)
            self.paused.append(process)
            self.pauses += 1
        else:
            process.send_signal(signal.SIGKILL)
            self.ended.append(process)
            self.kills += 1

    def wake(self, number: int) -> None:
        process = self.paused.pop(number)
        process.send_signal(signal.SIGCONT)
        self.ended.append(process)


def attack_workers(
    folder: Path, server: FakeServer, faults: int, problems: int, workers: int = 3
) -> dict[str, int]:
    """Attacks workers on one folder; compares with an uninterrupted run. Returns what it counted."""
    attack, rows = Attack(folder, server, workers, problems), problems * SAMPLES
    attack.run(faults)
    done = retort(attack.attacked, "generate", attack.recipe, "generate.concurrency=128", seconds=1200)
    assert done.returncode == 0, done.stderr
    assert sealed(attack.output.folder) == sealed(attack.whole / "test" / "generate")
    assert len({trace.id for trace in attack.output.rows()}) == attack.output.counts().rows == rows
    assert not [p for p in attack.output.folder.iterdir() if p.suffix in (".jsonl", ".tmp")]
    in_flight = WORKER_SLOTS * (attack.kills + attack.pauses)
    requests = server.stats()["requests"] - rows
    assert requests <= rows + in_flight
    return {
        "kills": attack.kills,
        "pauses": attack.pauses,
        "rows": rows,
        "requests": requests,
        "most in flight at the faults": in_flight,
    }


def test_workers_killed_and_paused_on_one_folder_end_like_an_uninterrupted_run(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--latency", str(WORKER_LATENCY))
    attack_workers(tmp_path, server, faults=4, problems=2 * PROBLEMS, workers=2)


def test_a_run_killed_many_times_ends_like_an_uninterrupted_one(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    kill_again_and_again(tmp_path, fake_server("--latency", "0.1"), KILLS, PROBLEMS)


def test_a_stop_signal_keeps_finished_rows_and_explains_how_to_resume(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--latency", "0.2")
    recipe = str(write_recipe(tmp_path, server.url))
    run_stages(tmp_path, recipe, "ingest")
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
