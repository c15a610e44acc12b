"""How fast examples become tokens and are looked at before a training: tokens a second, by processes.

    python -m tests.benchmarks.tokens [--examples 2000] [--terms 60] [--model NAME]

The demo's tokenizer, or --model's. Starting the worker processes is counted, as it is in a training.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.load import load_recipe
from pipeline.config.training import Train
from pipeline.hardware import cores
from pipeline.inference import model_files
from pipeline.rows import Example, arrow_schema
from pipeline.train.job import TrainJob
from tests.benchmarks.training import DEMO, example


def write(folder: Path, count: int, terms: int) -> Path:
    """Examples of `terms` lines of a sum each."""
    rng = random.Random(0)
    rows = [example(number, rng, terms).model_dump() for number in range(count)]
    path = folder / "examples.parquet"
    pq.write_table(pa.Table.from_pylist(rows, schema=arrow_schema(Example)), path)
    return path


def measure(job: TrainJob, processes: int) -> tuple[float, float]:
    """Tokens a second, and a second of a core's time."""
    from pipeline.train.job import read_preflight
    from pipeline.train.trainer.prepare import Part, prepare

    os.sched_setaffinity(0, cores()[:processes])
    began, before = time.monotonic(), used()
    prepare(job)
    took, cpu = time.monotonic() - began, used() - before
    looked = read_preflight(job.preflight)
    assert looked
    assert not looked.failed
    parts = (Part.model_validate_json(path.read_bytes()) for path in job.cache.glob("[0-9]*.json"))
    made = sum(part.seen.tokens for part in parts)
    return made / took, made / cpu


def used() -> float:
    """Seconds of cores' time, of this process and those that it has ended."""
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
        shard = write(Path(temporary), options.examples, options.terms)
        for processes in sorted({len(cores()), 1}, reverse=True):
            folder = Path(temporary) / str(processes)
            folder.mkdir()
            job = TrainJob(
                model=model,
                examples=(shard,),
                output=folder / "model",
                checkpoints=folder / "checkpoints",
                train=Train(max_length=10**6),
            )
            rate, a_core = measure(job, processes)
            print(
                f"{processes} processes: {rate:,.0f} tokens/s; a second of a core: {a_core:,.0f}", flush=True
            )


if __name__ == "__main__":
    main()
