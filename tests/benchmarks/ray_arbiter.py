"""How many shards one driver's arbiter hands out a second to 10, 100 and 1,000 workers, and its memory.
Then what being handed a shard takes a real worker: Ray's overhead of a shard, without the start of workers.

    python -m tests.benchmarks.ray_arbiter [--shards 20000]

The many workers are simulated: a process holds one open call for each of them, and asks again when it is
answered. So this measures the arbiter and Ray, not the work. On a busy machine only the CPU time counts.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from pipeline.engine import ray_cluster
from pipeline.engine.ray_executor import Arbiter


class Measured(Arbiter):
    """An arbiter that says what it takes."""

    def used(self) -> tuple[float, int]:
        """Seconds of CPU of all its threads, and the resident set in bytes."""
        status = Path("/proc/self/status").read_text()
        return time.process_time(), int(status.partition("VmRSS:")[2].split()[0]) * 1024


def pull_all(arbiter: Any, workers: int) -> int:
    """Pulls shards as this many workers until there are none; returns their number."""
    import ray

    open_calls = {arbiter.next_shard.remote(f"worker {i}"): i for i in range(workers)}
    pulled = 0
    while open_calls:
        answered, _ = ray.wait(list(open_calls))
        for call in answered:
            worker = open_calls.pop(call)
            if ray.get(call) is not None:
                pulled += 1
                open_calls[arbiter.next_shard.remote(f"worker {worker}")] = worker
    return pulled


class Puller:
    """A worker that does nothing with its shards. An actor."""

    def pull(self, arbiter: Any) -> tuple[int, float, float]:
        """The number of shards, and the seconds of CPU and of time until it had them all."""
        import ray

        cpu, began, pulled = time.process_time(), time.perf_counter(), 0
        while ray.get(arbiter.next_shard.remote("worker")) is not None:
            pulled += 1
        return pulled, time.process_time() - cpu, time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=int, default=20_000)
    shards = parser.parse_args().shards
    ray_cluster.connect("local")
    import ray

    for workers in (10, 100, 1000):
        arbiter = ray.remote(Measured).options(num_cpus=0).remote([f"shard-{i:05}" for i in range(shards)])
        cpu_before, _ = ray.get(arbiter.used.remote())
        began = time.perf_counter()
        assert pull_all(arbiter, workers) == shards
        seconds = time.perf_counter() - began
        cpu, memory = ray.get(arbiter.used.remote())
        each = 1000 * (cpu - cpu_before) / shards
        print(
            f"{workers} workers: {shards / seconds:,.0f} shards a second, "
            f"{each:.2f} ms of CPU a shard for the arbiter, {memory / 2**20:.0f} MiB"
        )
        ray.kill(arbiter)
    arbiter = ray.remote(Arbiter).options(num_cpus=0).remote([f"shard-{i:05}" for i in range(shards)])
    pulled, cpu, seconds = ray.get(ray.remote(Puller).remote().pull.remote(arbiter))
    each = f"{1000 * cpu / pulled:.2f} ms of CPU and {1000 * seconds / pulled:.2f} ms of time"
    print(f"a worker is handed a shard in {each}")


if __name__ == "__main__":
    main()
