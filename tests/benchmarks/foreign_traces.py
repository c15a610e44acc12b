"""Traces that exist already, from ingest to publish: seconds and memory of all processes, by stage.

    python -m tests.benchmarks.foreign_traces [--traces 1000000]

Grade-school traces of 2 kB in one JSONL file: eight samples per problem, shuffled, three of four correct.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.filtering import memory, reasoning

SAMPLES = 8
STAGES = ("ingest", "generate", "filter", "select")
RECIPE = """
run = "given"
[[ingest.sources]]
kind = "traces"
path = "{path}"
teacher = "other"
answer_type = "number"
"""


def build(folder: Path, traces: int) -> Path:
    """Writes the traces and a recipe."""
    rng = random.Random(0)
    reasonings = [reasoning(rng) for _ in range(5000)]
    places = list(range(traces))
    rng.shuffle(places)
    path = folder / "given.jsonl"
    with path.open("w") as file:
        for place in places:
            problem = place // SAMPLES
            result = problem + 1 if rng.random() < 0.75 else rng.randint(0, 99)
            row = {
                "question": f"She has {problem} apples and gets one more. How many has she?",
                "answer": str(problem + 1),
                "response": f"<think>\n{rng.choice(reasonings)} {place}\n</think>\n\nThe answer is {result}.",
            }
            file.write(json.dumps(row) + "\n")
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(path=path))
    return recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--traces", type=int, default=1_000_000)
    parser.add_argument("settings", nargs="*", help="overrides of the recipe")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        recipe = build(Path(temporary), options.traces)
        size = (recipe.parent / "given.jsonl").stat().st_size
        print(f"{options.traces:,} traces, {size / 1e6:,.0f} MB")
        for stage in STAGES:
            measure(stage, temporary, str(recipe), *options.settings)
        published = Path(temporary, "published")
        measure("publish", temporary, "given", "--to", str(published), "--with-traces")
        written = sum(file.stat().st_size for file in published.rglob("*.parquet"))
        print(f"published: {written / 1e6:,.0f} MB")


def measure(command: str, runs: str, *arguments: str) -> None:
    """Runs one command and prints what it took; ends the benchmark if it fails."""
    began, peak, used = time.perf_counter(), 0.0, _cpu_seconds()
    process = subprocess.Popen([sys.executable, "-m", "pipeline", "--runs", runs, command, *arguments])
    while process.poll() is None:
        peak = max(peak, memory(process.pid))
        time.sleep(0.2)
    if process.returncode:
        sys.exit(process.returncode)
    seconds, cpu = time.perf_counter() - began, _cpu_seconds() - used
    print(f"{command}: {seconds:.0f} s, {cpu:.0f} s of CPU, {peak:,.0f} MiB")


def _cpu_seconds() -> float:
    """CPU time of all processes that have ended; on a shared machine it says more than the clock."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
