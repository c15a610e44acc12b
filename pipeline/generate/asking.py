"""Has one model make the rows of a stage, such as the judge its verdicts: reaches it, asks, counts usage."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from itertools import chain
from typing import Protocol

from pipeline.config.endpoints import Endpoint, Judge
from pipeline.config.generate import Generate
from pipeline.engine.asynchronous import run_async
from pipeline.engine.scheduler import Plan, WorkItem, run_items
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.generate.usage import UsageLog, UsageMeter
from pipeline.inference import endpoint
from pipeline.inference.client import Client
from pipeline.inference.vllm_server import Server
from pipeline.rows import Row

MakePlan = Callable[[Shard], Plan]


class Worker(Protocol):
    """Makes the row of a work item."""

    async def process(self, item: WorkItem) -> Row: ...

    def fallback_row(self, item: WorkItem, error: str) -> Row: ...


def from_first_open(shards: Iterable[Shard], make_plan: MakePlan) -> Iterator[Shard] | None:
    """Seals shards that lack nothing, up to the first that does; returns that one and the rest, or None.

    So no server is started, or asked, where all rows were taken over.
    """
    rest = iter(shards)
    for shard in rest:
        if shard.sealed:
            continue
        plan = make_plan(shard)
        if plan.items:
            return chain((shard,), rest)
        plan.seal()
    return None


def count_errors(shards: Iterable[Shard]) -> int:
    """The rows of failed items that an earlier command accepted."""
    return sum(error is not None for shard in shards for (error,) in shard.values("error"))


def ask(
    job: Job,
    shards: Iterable[Shard],
    make_plan: MakePlan,
    model: Endpoint,
    table: Generate | Judge,
    start: Callable[[Client, UsageLog], Awaitable[Worker]],
    *,
    name: str,
    logprobs: int | None = None,
) -> None:
    """Brings the shards to sealed with answers of the model.

    table: how many requests run at once, how many may fail; name, logprobs: as in `endpoint.reach`.
    """
    remaining = from_first_open(shards, make_plan)
    if remaining is None:
        return

    async def ask_all(server: Server, shards: Iterable[Shard]) -> None:
        total = sum(s.count().rows if s.sealed else len(make_plan(s).order) for s in job.share())
        most_failed = int(table.max_failed_fraction * total)
        if most_failed:
            most_failed -= count_errors(job.share())
        async with endpoint.client_for(model, table.concurrency, server) as client:
            await client.check(job.say)
            usage = UsageLog(job.output.folder, [UsageMeter(model.model, model, client.pool)])
            worker = await start(client, usage)
            with job.progress(total) as progress:
                async with usage.reporting(progress, lambda: total):
                    await run_items(
                        shards,
                        make_plan,
                        worker.process,
                        worker.fallback_row,
                        slots={"": table.concurrency},
                        max_failed=lambda: most_failed,
                        progress=progress,
                        health_check=server.died,
                    )

    with endpoint.reach(model, model.model, name, job, table, logprobs=logprobs) as server:
        run_async(ask_all(server, remaining))
