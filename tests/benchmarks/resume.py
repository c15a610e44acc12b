"""Time and memory to resume a large run: 200,000 traces of 8 kB exist, and one more is needed.

    python -m tests.benchmarks.resume [--problems 50000] [--open]

With --open every shard still lacks one trace, so that nothing is sealed and every journal has to be read. The
time is that from the start of the command to the first request that the server sees.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.load import load_recipe
from pipeline.engine.changed_settings import manifest_of
from pipeline.engine.execute import execute
from pipeline.engine.journal import done_line
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.generate.sample_plan import sampling_seed, trace_id
from pipeline.rows import Problem, Sampling, Trace
from pipeline.stages import STAGES
from tests.benchmarks import stub
from tests.benchmarks.client import RECIPE, question

SAMPLES = 4
WORDS = [f"{random.Random(i).getrandbits(40):x}" for i in range(4000)]


def trace(problem: Problem, sample: int, rng: random.Random) -> Trace:
    return Trace(
        **problem.model_dump(include={"question", "reference", "answer_type", "source", "metadata"}),
        id=trace_id(problem.id, 0, sample),
        problem_id=problem.id,
        sample=sample,
        teacher="stub",
        prompt="plain",
        prompt_hash="0" * 16,
        sampling=Sampling(temperature=0.6, top_p=0.95, max_tokens=4096),
        seed=sampling_seed(problem.id, sample, 0),
        reasoning=" ".join(rng.choices(WORDS, k=700)),
        response="The answer is 4.",
        finish_reason="stop",
        prompt_tokens=30,
        completion_tokens=2000,
    )


def begun(folder: Path, url: str, problems: int) -> tuple[Path, Job]:
    """A recipe, and its run whose generate stage has begun and holds nothing yet."""
    source = folder / "problems.jsonl"
    with source.open("w") as file:
        for i in range(problems):
            file.write(json.dumps({"question": question(i), "answer": str(2 * i)}) + "\n")
    path = folder / "recipe.toml"
    text = RECIPE.format(problems=source, url=url, in_flight=64)
    path.write_text(text.replace("samples = 1", f"samples = {SAMPLES}"))
    recipe = load_recipe(path)
    run = folder / "bench"
    execute(STAGES["ingest"], recipe, run)
    job = Job(STAGES["generate"], recipe, run)
    job.output.save(manifest_of(job))
    return path, job


def build(folder: Path, url: str, problems: int, all_open: bool) -> Path:
    """A run whose generate stage was killed one trace before its end; all_open: before that of each shard."""
    path, job = begun(folder, url, problems)
    rng = random.Random(1)
    pairs = [(job.input_shard(traces), traces) for traces in job.share()]
    for i, (given, traces) in enumerate(pairs):
        fill(given, traces, rng, lacks_one=all_open or i == len(pairs) - 1)
    return path


def fill(problems: Shard, traces: Shard, rng: random.Random, lacks_one: bool) -> None:
    def rows() -> Iterator[Trace]:
        for problem in problems.rows():
            yield from (trace(problem, sample, rng) for sample in range(SAMPLES))

    if lacks_one:
        traces.append([done_line(row) for row in rows()][:-1])
    else:
        traces.write(row.model_dump() for row in rows())


def requests(url: str) -> int:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/count", timeout=10) as answer:
        return int(answer.read())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=50_000)
    parser.add_argument("--open", action="store_true")
    options = parser.parse_args()
    with stub.running() as (url, _), tempfile.TemporaryDirectory() as temporary:
        recipe = build(Path(temporary), url, options.problems, options.open)
        size = sum(p.stat().st_size for p in (Path(temporary) / "bench" / "generate").iterdir())
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "--runs", temporary, "generate", str(recipe)]
        )
        peak = 0.0
        while not requests(url):
            peak = max(peak, memory(process.pid))
            time.sleep(0.02)
        first = time.perf_counter() - began
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.02)
        total = time.perf_counter() - began
        asked = requests(url)
    print(
        f"{options.problems * SAMPLES:,} traces, {size / 2**20:,.0f} MiB on disk: first request after "
        f"{first:.1f} s, {asked} requests, done after {total:.1f} s, at most {peak:.0f} MiB of memory"
    )


def memory(pid: int) -> float:
    """The most memory (MiB) that a process has held so far; 0 when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("VmHWM")), "x 0")
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
