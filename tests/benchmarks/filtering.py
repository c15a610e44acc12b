"""The filter stage on many traces: time and memory, all processes together.

    python -m tests.benchmarks.filtering [--traces 1000000]

Grade-school traces of 2 kB: four samples per problem, most of them correct, filtered by the default rules.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.rows import Problem
from tests.benchmarks.resume import SAMPLES, begun, trace

SENTENCES = [
    "First I look at how many there are to begin with, and write it down.",
    "Then she gives away {a} of them, so {b} are left on the table.",
    "Each box holds {a} apples and there are {b} boxes, which makes {c} in all.",
    "Half of {c} is what he keeps, and the rest goes to his sister.",
    "I check that again: {a} times {b} is {c}, as before.",
]


def reasoning(rng: random.Random) -> str:
    said = []
    while sum(map(len, said)) < 1800:
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        said.append(rng.choice(SENTENCES).format(a=a, b=b, c=a * b))
    return " ".join(said)


def rows(problems: list[Problem], reasonings: list[str], rng: random.Random) -> Iterator[dict[str, Any]]:
    for problem in problems:
        base = trace(problem, 0, random.Random(0)).model_dump()
        for sample in range(SAMPLES):
            result = problem.reference if rng.random() < 0.7 else str(rng.randint(0, 99))
            yield base | {
                "id": f"{problem.id}-0-{sample:04d}",
                "sample": sample,
                "reasoning": rng.choice(reasonings),
                "response": f"She has {result} of them. The answer is {result}.",
            }


def build(folder: Path, traces: int) -> Path:
    """A run whose generate stage is complete."""
    path, job = begun(folder, "http://127.0.0.1:9/v1", traces // SAMPLES)
    rng = random.Random(1)
    reasonings = [reasoning(rng) for _ in range(5000)]
    for written in job.share():
        given = job.input_shard(written)
        written.write(rows(list(given.rows()), reasonings, rng))
    job.output.finish()
    return path


def memory(pid: int) -> float:
    """Memory (MiB) of a process and its descendants; shared pages count once."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return own / 1024 + sum(memory(int(child)) for child in children)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--traces", type=int, default=1_000_000)
    parser.add_argument(
        "settings", nargs="*", help="overrides of the recipe, such as filter.rules.no_leak=true"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        recipe = build(Path(temporary), options.traces)
        began, peak = time.perf_counter(), 0.0
        command = [sys.executable, "-m", "pipeline", "--runs", temporary, "filter", str(recipe)]
        process = subprocess.Popen([*command, *options.settings])
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.2)
        seconds = time.perf_counter() - began
    print(
        f"{options.traces:,} traces in {seconds:.0f} s on {os.cpu_count()} cores, "
        f"{options.traces / seconds:,.0f} a second, at most {peak:.0f} MiB in all"
    )


if __name__ == "__main__":
    main()
