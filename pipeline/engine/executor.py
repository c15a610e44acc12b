"""Hands the shards of a stage to workers on this machine, or to the executor that the command chose."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.engine.progress import Progress
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.engine.worker_pool import parallel_map


def run(job: Job, shards: Sequence[Shard]) -> None:
    """Brings the shards to sealed; a stage without `work` has none."""
    open_shards = [shard for shard in shards if not shard.sealed]
    if job.stage.work is None or not open_shards:
        return
    hand_out = run_here if job.stage.one_worker else job.options.hand_out or run_here
    hand_out(job, open_shards)


def run_here(job: Job, shards: Sequence[Shard]) -> None:
    """Works in this process, or for many rows in a process for each core."""
    assert job.stage.work is not None
    if job.stage.asks_models or job.stage.one_worker or job.stage.shards_from is None:
        job.stage.work(job, shards)
        return
    rows = sum(job.input_shard(shard).count().rows for shard in shards)
    with Progress(job.stage.name, rows) as progress:
        for done in parallel_map(_work_on, job, [(shard,) for shard in shards], rows):
            progress.update(done=done)


def _work_on(job: Job, shard: Shard) -> int:
    """Brings one shard to sealed and returns the number of rows that it was made from."""
    assert job.stage.work is not None
    job.stage.work(job, (shard,))
    return job.input_shard(shard).count().rows
