"""Speed of tokenizing and checking examples before a training, in tokens per second by processes.

    python -m tests.benchmarks.tokens [--examples 2000] [--terms 60] [--model NAME]

Uses the demo's tokenizer, or --model's. Starting the worker processes counts, as in a training.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import tempfile
import time
from pathlib import Path

from pipeline.config.load import load_recipe
from pipeline.hardware import cores
from pipeline.inference import model_files
from pipeline.train.job import TrainJob
from tests import tiny_student
from tests.benchmarks.training import DEMO, example


def write(folder: Path, count: int, terms: int) -> tuple[Path, ...]:
    """Writes shards of examples whose reasoning is `terms` lines long."""
    rng = random.Random(0)
    rows = [example(number, rng, terms) for number in range(count)]
    shards = [rows[first : first + 256] for first in range(0, count, 256)]
    return tuple(
        tiny_student.write_examples(folder / f"{n}.parquet", shard) for n, shard in enumerate(shards)
    )


def measure(job: TrainJob, processes: int) -> tuple[float, float]:
    """Tokens per second, and per second of CPU time."""
    from pipeline.train.job import read_preflight
    from pipeline.train.trainer.preflight import Statistics
    from pipeline.train.trainer.prepare import prepare

    os.sched_setaffinity(0, cores()[:processes])
    began, before = time.monotonic(), cpu_seconds()
    prepare(job)
    took, cpu = time.monotonic() - began, cpu_seconds() - before
    preflight = read_preflight(job.preflight)
    assert preflight
    assert not preflight.failed
    parts = (Statistics.model_validate_json(path.read_bytes()) for path in job.cache.glob("[0-9]*.json"))
    tokens = sum(part.tokens for part in parts)
    return tokens / took, tokens / cpu


def cpu_seconds() -> float:
    """CPU time of this process and of its ended children."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--terms", type=int, default=60)
    parser.add_argument("--model", default=load_recipe(DEMO).student.model)
    options = parser.parse_args()
    model = model_files.resolve(options.model, print)
    with tempfile.TemporaryDirectory() as temporary:
        shards = write(Path(temporary), options.examples, options.terms)
        for processes in sorted({len(cores()), 1}, reverse=True):
            folder = Path(temporary) / str(processes)
            folder.mkdir()
            job = tiny_student.job(folder, model, shards, max_length=10**6)
            rate, a_core = measure(job, processes)
            print(
                f"{processes} processes: {rate:,.0f} tokens/s; per second of CPU time: {a_core:,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
