"""The filter stage on one and two Ray workers of a core each: speed-up, and Ray's overhead for a shard.

    python -m tests.benchmarks.ray_filter [--traces 100000]

A cluster of two nodes of one core each runs on this machine. The overhead is what the stage takes longer
than with one process on one core, without Ray. All three results must be equal, byte for byte.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.engine.ray_cluster import QUICK
from tests.benchmarks.filtering import build
from tests.e2e.runs import ROOT, sealed


def seconds(command: list[str]) -> float:
    """Runs a command; returns the seconds that the stage says it took."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"^filter: .* in (\d+) s$", done.stderr, re.M)
    assert found, done.stderr
    return float(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--traces", type=int, default=100_000)
    traces = parser.parse_args().traces
    os.environ |= QUICK | {
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory() as temporary:
        recipe = build(Path(temporary), traces)
        run = next(path.parent for path in Path(temporary).glob("*/generate"))
        node = {"object_store_memory": 80 * 2**20, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **node})
        for _ in range(2):
            cluster.add_node(num_cpus=1, **node)
        command = [sys.executable, "-m", "pipeline", "--runs", temporary, "filter", str(recipe)]
        ways = {
            "one process": ["taskset", "-c", "0", *command],
            "1 Ray worker": [*command, "--ray", str(cluster.address), "ray.filter.replicas=1"],
            "2 Ray workers": [*command, "--ray", str(cluster.address), "ray.filter.replicas=2"],
        }
        took, bytes_of = {}, {}
        for name, way in ways.items():
            took[name] = seconds(way)
            bytes_of[name] = sealed(run / "filter")
            shutil.rmtree(run / "filter")
        cluster.shutdown()
    shards = len(bytes_of["one process"])
    assert len({frozenset(found.items()) for found in bytes_of.values()}) == 1
    one, ray_one, ray_two = took.values()
    print(", ".join(f"{name} {value:.0f} s" for name, value in took.items()), f"({traces:,} traces)")
    print(f"2 workers are {ray_one / ray_two:.2f} times as fast as 1")
    print(f"Ray takes {1000 * (ray_one - one) / shards:.0f} ms more for each of {shards} shards")


if __name__ == "__main__":
    main()
