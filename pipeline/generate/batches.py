"""Samples through batches: decides when gathered requests are sent, and what those under way may cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

from pipeline.config.base import SamplingSettings
from pipeline.config.endpoints import Teacher
from pipeline.engine.owner import this_owner
from pipeline.engine.stage import Job
from pipeline.generate.price import price
from pipeline.generate.sampler import Model
from pipeline.generate.usage import EndpointUsage, UsageMeter
from pipeline.inference import model_files
from pipeline.inference.batch_client import BatchClient
from pipeline.inference.client import Client

# In the run's folder: they outlive the settings of a stage's results.
FOLDER, FILES = "batches", "batch-files"
LOOK_INTERVAL = 0.25  # seconds
MAX_IN_FLIGHT = 100_000  # requests of one teacher, each of which waits in memory

Clients = Sequence[Client | BatchClient]


def client_for(model: Model, job: Job) -> BatchClient | None:
    """The client of a model that is sampled through batches; None for any other."""
    endpoint = model.endpoint
    if not (isinstance(endpoint, Teacher) and endpoint.batch):
        return None
    metadata = {"retort_run": job.recipe.run, "retort_stage": job.stage.name, "retort_owner": this_owner()}
    kind = FILES if endpoint.by_files else FOLDER
    folder = job.run_dir / kind / job.stage.name / folder_of(model.name)
    return BatchClient(endpoint, folder, metadata, job.say)


def folder_of(model: str) -> str:
    """The folder of a model's batches: each needs its own, as equal requests find each other's results."""
    return model_files.label(model)


def slots(client: Client | BatchClient) -> int | None:
    """The requests that may wait for batches at once; None for a client without batches."""
    return min(2 * client.most, MAX_IN_FLIGHT) if isinstance(client, BatchClient) else None


@asynccontextmanager
async def sending(clients: Clients, active: Mapping[int, int]) -> AsyncIterator[None]:
    """Sends gathered requests during the block, once no other can join them before a batch has ended.

    active: position of a client -> the items being processed with it. When all of them wait for batches, and
    still do at the next look, the filters are done and nothing else asks: a batch holds a whole round.
    """

    async def send_regularly() -> None:
        before: dict[int, int] = {}
        while True:
            await asyncio.sleep(LOOK_INTERVAL)
            now = {}
            for i, client in enumerate(clients):
                if isinstance(client, BatchClient) and client.waiting == active[i] > 0:
                    now[i] = client.gathered
                    if before.get(i) == client.gathered:
                        client.send()
            before = now

    task = asyncio.create_task(send_regularly())
    try:
        yield
    finally:
        task.cancel()


def expected(
    clients: Clients, meters: Sequence[UsageMeter], running: Mapping[str, int], table: SamplingSettings
) -> Iterator[EndpointUsage]:
    """What the samples in batches will probably use, so that limits are kept before their results come.

    running: position of a client -> its samples under way. Each counts as `max_tokens` until there are
    responses, then as much as those on average.
    """
    for i, (client, meter) in enumerate(zip(clients, meters, strict=True)):
        if isinstance(client, BatchClient):
            each = client.mean_tokens or (0, table.max_tokens)
            prompt, completion = (round(running[str(i)] * tokens) for tokens in each)
            yield EndpointUsage(
                teacher=meter.teacher,
                requests=0,
                retries={},
                prompt_tokens=prompt,
                completion_tokens=completion,
                spend=price(meter.endpoint, prompt, completion),
            )


def saved(clients: Clients) -> None:
    """Forgets batches whose responses are rows on disk."""
    for client in clients:
        if isinstance(client, BatchClient):
            client.saved()
