"""kill -9 at random moments and torn journals: the lost rows and the repeated requests.

    python -m tests.benchmarks.crash [--kills 50]

The fake server counts the requests. Nothing may be lost, and no more asked than the rows, what was in flight
at the kills, and what the test itself tore off; the shards must be those of a run never killed, to the byte.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.conftest import FakeServer
from tests.e2e.test_crash import kill_again_and_again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    options = parser.parse_args()
    server = FakeServer("--latency", "0.1")
    try:
        with tempfile.TemporaryDirectory() as folder:
            counted = kill_again_and_again(Path(folder), server, options.kills, 10 * options.kills)
    finally:
        server.stop()
    print(", ".join(f"{name}: {count:,}" for name, count in counted.items()))
    print("nothing lost, nothing asked twice beyond that, no duplicate, shards byte for byte equal")


if __name__ == "__main__":
    main()
