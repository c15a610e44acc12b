"""Half of the answers are 429, 5xx, broken, garbage or hang for a minute, and the server is gone for 60 s.

    python -m tests.benchmarks.storm [--problems 250]

Prints the rows, the requests and the retries by reason, and checks that each row is stored once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

from pipeline import open_run
from pipeline.generate import usage
from tests.conftest import FakeServer
from tests.e2e.runs import SAMPLES, retort, write_recipe

FAULTS = {"429": 0.15, "500": 0.1, "503": 0.05, "dropped": 0.1, "garbage": 0.06, "hang": 0.04}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=250)
    options = parser.parse_args()
    faults = json.dumps(FAULTS)
    server = FakeServer("--latency", "0.05", "--faults", faults, "--hang", "60", "--gone", "10,60")
    try:
        with tempfile.TemporaryDirectory() as temporary:
            storm(Path(temporary), server, options.problems)
    finally:
        server.stop()


def storm(folder: Path, server: FakeServer, problems: int) -> None:
    recipe = str(write_recipe(folder, server.url, problems))
    assert retort(folder, "ingest", recipe).returncode == 0
    began = time.perf_counter()
    settings = ("generate.concurrency=64", "teacher.stall_timeout=15", "teacher.max_retries=12")
    done = retort(folder, "generate", recipe, *settings, seconds=1200)
    seconds = time.perf_counter() - began
    ids = Counter(trace.id for trace in open_run(folder / "test").rows("generate"))
    (last,) = usage.read_attempts(folder / "test" / "generate")
    account = last.endpoints[0]
    print(f"exit code {done.returncode} after {seconds:.0f} s, {len(ids):,} of {problems * SAMPLES:,} rows,")
    print(f"{account.requests:,} requests, retries: {account.retries}")
    print(done.stderr.splitlines()[-1])
    twice = [n for n in server.stats()["answered"].values() if n > 1]
    assert set(ids.values()) == {1}
    print(f"no row twice; {len(twice)} requests answered more than once")


if __name__ == "__main__":
    main()
