"""Random kills and freezes on a Ray cluster of this machine: the lost rows and the repeated requests.

    python -m tests.benchmarks.cluster_crash [--kills 200 --freezes 20]

A kill (SIGKILL) hits a worker, a raylet or the driver. A killed driver is started again, after the end of a
journal was torn off. A freeze (SIGSTOP) stops a worker and its raylet until its shards are another's; it
counts if they are woken then. Nothing may be lost, no row stored twice, no more asked than the rows, what was
in flight at the faults, and what the test itself tore off. The shards must be those of one undisturbed
process, to the byte.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from pipeline.engine.store import Output
from pipeline.rows import Trace
from tests.conftest import FakeServer
from tests.e2e.runs import SAMPLES, retort, sealed, start, write_recipe
from tests.e2e.test_crash import tear
from tests.e2e.test_ray import Nodes, busy_workers, kill_raylet, raylet_of, wake

WORKERS, SLOTS = 4, 4  # SLOTS: requests in flight of each worker
LATENCY = 1.0  # seconds
PROBLEMS = 18  # for each fault, so that work is left until the last
FREEZE_SECONDS = 30.0  # Ray takes a worker for lost after 10
KILLS = {"worker": 30, "raylet": 3, "driver": 1}  # with their weights
FREEZE = "freeze"


class Attack:
    """Harms the workers and the driver of one stage until there were enough faults."""

    def __init__(self, folder: Path, recipe: str, nodes: Nodes) -> None:
        self.rng = random.Random(13)
        self.folder, self.recipe, self.nodes = folder, recipe, nodes
        self.output = Output(folder / "test" / "generate", Trace)
        self.counts: Counter[str] = Counter()
        self.frozen: dict[int, tuple[float, int]] = {}  # worker -> when to wake it, its raylet
        self.reader = ThreadPoolExecutor(1)
        self.begin()

    def begin(self) -> None:
        settings = (f"generate.concurrency={SLOTS}", f"ray.generate.replicas={WORKERS}")
        self.driver = start(self.folder, "generate", self.recipe, *settings, "--ray", self.nodes.address)
        self.said = self.reader.submit(self.driver.communicate)  # Ray says more than fits into a pipe

    def run(self, kills: int, freezes: int) -> None:
        while (killed := sum(self.counts[name] for name in KILLS)) < kills or self.counts["woken"] < freezes:
            time.sleep(self.rng.uniform(0.5, 2.5))
            self.wake(lambda due: due <= time.monotonic())
            if (code := self.driver.poll()) == 0:
                break  # too few problems for so many faults
            if code is not None:
                self.begin_again()
            elif workers := [worker for worker in busy_workers() if worker not in self.frozen]:
                weights = dict.fromkeys(KILLS, 0) if killed >= kills else dict(KILLS)
                weights[FREEZE] = 3 * (self.counts["woken"] + len(self.frozen) < freezes)
                if any(weights.values()):
                    (fault,) = self.rng.choices(list(weights), list(weights.values()))
                    self.harm(fault, self.rng.choice(workers))
        self.driver.terminate()
        self.end_driver()

    def harm(self, fault: str, worker: int) -> None:
        self.counts[fault] += 1
        if fault == "worker":
            os.kill(worker, signal.SIGKILL)
        elif fault == "raylet":
            kill_raylet(worker)
            self.nodes.add()
        elif fault == FREEZE:
            raylet = raylet_of(worker)
            self.frozen[worker] = time.monotonic() + FREEZE_SECONDS, raylet
            os.kill(worker, signal.SIGSTOP)
            os.kill(raylet, signal.SIGSTOP)
            self.nodes.add()
        else:
            self.driver.kill()
            self.begin_again()
        print(f"{fault}: {dict(self.counts)}", flush=True)

    def wake(self, chosen: Callable[[float], bool]) -> None:
        for worker, (due, raylet) in list(self.frozen.items()):
            if chosen(due):
                del self.frozen[worker]
                self.counts["woken"] += due <= time.monotonic() and worker in busy_workers()
                for pid in (raylet, worker):
                    wake(pid)
                threading.Thread(target=reap, args=[raylet], daemon=True).start()

    def begin_again(self) -> None:
        """Starts the driver again, with a torn journal, when the workers of the last one are gone."""
        self.end_driver()
        self.counts["torn"] += tear(self.output.folder, self.rng)
        self.begin()

    def end_driver(self) -> None:
        self.wake(lambda due: True)
        _, said = self.said.result(timeout=120)
        assert self.driver.returncode in (0, 3, 130, -signal.SIGKILL), said
        assert "Traceback" not in said, said
        self.counts["drivers"] += 1
        self.counts["stopped by itself"] += self.driver.returncode == 3
        self.counts["handed out again"] += said.count("its shards are handed out again")
        while busy_workers():
            time.sleep(0.2)
        time.sleep(5)  # those whose raylet is lost end as soon


def reap(pid: int) -> None:
    """Waits for a raylet that was taken for dead: its workers take one that is not reaped for alive."""
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def undisturbed(runs: Path, recipe: str) -> dict[str, bytes]:
    """The shards that one process makes, from a server that answers at once."""
    server = FakeServer()
    try:
        for stage in ("ingest", "generate"):
            settings = ("generate.concurrency=128", f"teacher.base_url={server.url}")
            done = retort(runs, stage, recipe, *settings, seconds=3600)
            assert done.returncode == 0, done.stderr
    finally:
        server.stop()
    return sealed(runs / "test" / "generate")


def attack(folder: Path, nodes: Nodes, server: FakeServer, kills: int, freezes: int) -> str:
    problems, runs = PROBLEMS * (kills + freezes), folder / "attacked"
    path = write_recipe(folder, server.url, problems)
    path.write_text(path.read_text().replace("shard_size = 8", "shard_size = 2"))  # sealed in seconds
    recipe = str(path)
    whole = ThreadPoolExecutor(1).submit(undisturbed, folder / "whole", recipe)
    assert retort(runs, "ingest", recipe).returncode == 0
    attack = Attack(runs, recipe, nodes)
    attack.run(kills, freezes)
    already = attack.output.counts().rows
    done = retort(runs, "generate", recipe, "generate.concurrency=256", seconds=3600)
    assert done.returncode == 0, done.stderr
    rows, counts = problems * SAMPLES, attack.counts
    assert sealed(attack.output.folder) == whole.result()
    assert len({trace.id for trace in attack.output.rows()}) == attack.output.counts().rows == rows
    assert not [p for p in attack.output.folder.iterdir() if p.suffix in (".jsonl", ".tmp")]
    in_flight = SLOTS * (counts["worker"] + counts["raylet"] + counts[FREEZE] + WORKERS * counts["drivers"])
    requests = server.stats()["requests"]
    assert requests <= rows + in_flight + counts["torn"]
    said = f"{dict(counts)}; {already:,} of {rows:,} rows were there after the faults; "
    return said + f"{requests:,} requests, at most {in_flight:,} in flight at the faults"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--freezes", type=int, default=20)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = FakeServer("--latency", str(LATENCY))
        stack.callback(server.stop)
        nodes = Nodes()
        stack.callback(nodes.cluster.shutdown)
        nodes.grow(WORKERS + 3)
        print(attack(folder, nodes, server, options.kills, options.freezes))
    print("nothing lost, nothing asked twice beyond that, no duplicate, shards byte for byte equal")


if __name__ == "__main__":
    main()
