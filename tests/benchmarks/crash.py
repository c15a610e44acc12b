"""kill -9 at random moments and torn journals: the lost rows and the repeated requests.

    python -m tests.benchmarks.crash [--kills 50] [--faults 20 --workers 3]

The fake server counts the requests. Nothing may be lost, and no more asked than the rows, what was in flight
at the kills, and what the test itself tore off; the shards must be those of a run never killed, to the byte.
With --faults, workers on one folder are killed or paused (SIGSTOP), others take over, and the paused wake up.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.conftest import FakeServer
from tests.e2e.test_crash import WORKER_LATENCY, attack_workers, kill_again_and_again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--faults", type=int, default=0)
    parser.add_argument("--workers", type=int, default=3)
    options = parser.parse_args()
    faults, problems = options.faults, 10 * (options.faults or options.kills)
    server = FakeServer("--latency", str(WORKER_LATENCY if faults else 0.1))
    try:
        with tempfile.TemporaryDirectory() as folder:
            if faults:
                counted = attack_workers(Path(folder), server, faults, 4 * problems, options.workers)
            else:
                counted = kill_again_and_again(Path(folder), server, options.kills, problems)
    finally:
        server.stop()
    print(", ".join(f"{name}: {count:,}" for name, count in counted.items()))
    print("nothing lost, nothing asked twice beyond that, no duplicate, shards byte for byte equal")


if __name__ == "__main__":
    main()
