"""Takes over the traces that sources gave (`kind = "traces"`): no teacher is asked for their problems.

Ingest has sorted them by shard and problem. A shard that needs no other trace is sealed here. In a shard that
also has problems to sample, they are appended to the journal, and the sample plan asks nothing for them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from pipeline.config.ingest import TracesSource
from pipeline.engine.earlier_rows import take_over
from pipeline.engine.progress import Progress
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.engine.worker_pool import parallel_map
from pipeline.errors import UserError
from pipeline.ingest.spool import GIVEN, given_traces
from pipeline.ingest.stage import TRACE_SHARDS
from pipeline.rows import Trace


def given_ids(problems: Shard) -> dict[str, list[str]]:
    """Problem -> the ids of its given traces, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    if (given := given_traces(problems)).sealed:
        for problem, id in given.values("problem_id", "id"):
            found[problem].append(id)
    return dict(found)


def is_given(trace_id: str) -> bool:
    return trace_id.split("-")[-2] == GIVEN


def take_over_given(job: Job) -> None:
    """Writes the given traces of the open shards. Raises UserError if some of them are gone."""
    if not any(isinstance(source, TracesSource) for source in job.recipe.ingest.sources):
        return
    rows = _expected(job)
    shards = [shard for shard in job.share() if not shard.sealed]
    with Progress(job.stage.name, sum(rows.values()), job.output.counts().rows) as progress:
        total = sum(rows.get(shard.name, 0) for shard in shards)
        for done in parallel_map(_write, job, ((shard, rows.get(shard.name, 0)) for shard in shards), total):
            progress.update(done=done)


def _expected(job: Job) -> dict[str, int]:
    """Shard -> the number of its given traces, as ingest counted them."""
    manifest = job.inputs["ingest"].manifest()
    assert manifest is not None
    counts: dict[str, int] = manifest.report.get(TRACE_SHARDS, {})
    return counts


def _write(job: Job, traces: Shard, expected: int) -> int:
    """Writes the given traces of one shard; returns their number."""
    problems = job.input_shard(traces)
    given = given_traces(problems)
    found = given.count().rows if given.sealed else 0
    if found != expected:
        raise UserError(
            f"{given.path} has {found} of {expected} traces: delete the folder ingest of the run and run "
            "`retort ingest` again"
        )
    if set(_to_train_on(problems)) <= given_ids(problems).keys():
        traces.write(given.records(Trace.model_fields) if expected else ())
    elif expected:
        take_over(traces, given.rows())
    return expected


def _to_train_on(problems: Shard) -> Iterator[str]:
    return (id for id, split in problems.values("id", "split") if split == "train")
