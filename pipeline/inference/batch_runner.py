"""Brings batches from requests to results: uploads, creates, follows and collects each of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipeline.errors import Stopped, UserError
from pipeline.inference import batch_api
from pipeline.inference.batch_api import BatchApi, RemoteBatch
from pipeline.inference.batch_files import BatchFiles
from pipeline.inference.batch_ledger import Ledger, PaidBatch
from pipeline.inference.batch_results import Results, index
from pipeline.inference.http import ResponseLimits

FIRST_POLL, LAST_POLL = 0.5, 60.0  # seconds between two looks at a batch; they grow
LONGEST = 48 * 3600  # seconds after which a batch that promised 24 hours is given up
LINE_OVERHEAD = 2**16  # bytes of a result beyond the response itself


@dataclass(eq=False)
class Batch:
    """A batch in this process: one that is gathered, or one that the ledger knows."""

    unsent: frozenset[str]
    requests: set[str] | frozenset[str] = field(default_factory=set)
    lines: list[bytes] = field(default_factory=list)
    size: int = 0  # bytes of the lines
    paid: PaidBatch | None = None
    read: set[str] = field(default_factory=set)  # requests whose results this process has read
    results: Results | None = None  # None, too, if the server never created the batch
    cancelled: bool = False  # while this process waited for it
    error: Exception | None = None  # why it has no results
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the server works on it now, as far as is known."""
        alive = self.task is not None and not self.task.done()
        return alive and self.paid is not None and self.paid.id is not None and not self.paid.status


@dataclass
class RequestTotals:
    """What is counted of requests, as an EndpointPool counts it, over several connections."""

    requests: int = 0
    retries: Counter[str] = field(default_factory=Counter)
    lost: tuple[int, int] = (0, 0)
    in_flight: int = 0

    def record_lost(self, prompt: int, completion: int) -> None:
        """Records the tokens of a response that could not be used."""
        self.lost = self.lost[0] + prompt, self.lost[1] + completion


@dataclass
class BatchRunner:
    """All batches of one model in one stage. `limits`: those of one response, set before any batch ends."""

    api: BatchApi | BatchFiles
    ledger: Ledger
    metadata: Mapping[str, str]  # stored with each batch, for people
    say: Callable[[str], None]
    pool: RequestTotals = field(default_factory=RequestTotals)
    batches: list[Batch] = field(default_factory=list)
    limits: ResponseLimits = field(default_factory=lambda: ResponseLimits(batch_api.STALL))

    def start(self, batch: Batch) -> None:
        """Begins to bring the batch to its results, from wherever it is; `ready` tells the end."""
        batch.task = asyncio.create_task(self._finish(batch))

    async def stop(self) -> list[str]:
        """Stops following; returns the ids of the batches that go on without this process."""
        left = [batch.paid.id for batch in self.batches if batch.running and batch.paid]
        tasks = [batch.task for batch in self.batches if batch.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return [id for id in left if id]

    async def _finish(self, batch: Batch) -> None:
        try:
            if batch.paid is None:
                batch.paid = await self._upload(batch)
                await self._create(batch.paid)
            elif batch.paid.id is None:
                found = await self.api.find(batch.paid.file, batch.paid.former)
                if found is None:
                    return
                self._created(batch.paid, found)
            await self._collect(batch, batch.paid)
        except Exception as e:  # noqa: BLE001  every request of the batch raises it
            batch.error = e
        finally:
            batch.ready.set()

    async def _upload(self, batch: Batch) -> PaidBatch:
        self.ledger.folder.mkdir(parents=True, exist_ok=True)
        file = await self.api.upload(batch.lines, self.ledger.folder)
        batch.lines.clear()
        paid = PaidBatch(file, frozenset(batch.requests), batch.unsent)
        self.ledger.uploaded(paid)
        return paid

    async def _create(self, paid: PaidBatch) -> None:
        self._created(paid, await self.api.create(paid.file, self.metadata, paid.former))

    def _created(self, paid: PaidBatch, remote: RemoteBatch) -> None:
        paid.id = remote.id
        self.ledger.created(paid)
        self.pool.requests += len(paid.requests)
        self.say(f"{self.api.name}: batch {paid.id} of {len(paid.requests):,} requests")

    async def _collect(self, batch: Batch, paid: PaidBatch) -> None:
        """Waits for the end of the batch, stores its result files and finds each result in them."""
        while not paid.status:
            remote = await self._ended(paid)
            if remote.status == "failed" and not remote.files:
                await self._refused(batch, paid, remote)
                continue
            batch.cancelled = remote.status == "cancelled"
            paid.status, paid.results = remote.status, remote.files
            self.ledger.ended(paid)
        limits = ResponseLimits(
            batch_api.STALL, self.limits.tokens * len(paid.requests), self.limits.candidates
        )
        paths = self.ledger.results_of(paid)
        for file, path in zip(paid.results, paths, strict=True):
            await self.api.download(file, paid.requests, path, limits)
        longest = self.limits.bytes + LINE_OVERHEAD
        results = await asyncio.to_thread(index, paths, paid.requests, longest)
        ignored = "".join(f"; {n} lines ignored: {what}" for what, n in sorted(results.ignored.items()))
        count = f"{len(results.places):,} of {len(paid.requests):,} results"
        self.say(f"{self.api.name}: batch {paid.id} {paid.status}, {count}{ignored}")
        batch.results = results

    async def _ended(self, paid: PaidBatch) -> RemoteBatch:
        assert paid.id is not None
        clock, pause = asyncio.get_running_loop().time, FIRST_POLL
        began = clock()
        while True:
            try:
                remote = await self.api.get(paid.id)
            except UserError as e:
                raise UserError(
                    f"{e}; if the batch is lost, delete {self.ledger.folder} to ask again, at its price"
                ) from None
            if remote.status in batch_api.ENDED:
                return remote
            if clock() - began > LONGEST:
                raise Stopped(f"{self.api.name}: batch {paid.id} is {remote.status!r} after 48 hours")
            await asyncio.sleep(pause)
            pause = min(LAST_POLL, 1.3 * pause)

    async def _refused(self, batch: Batch, paid: PaidBatch, remote: RemoteBatch) -> None:
        """Creates a refused batch again once another one has ended, if it was too much at once.

        Raises Stopped for any other reason.
        """
        others = [other for other in self.batches if other is not batch and other.running]
        self.ledger.refused(paid)
        paid.id, paid.former = None, paid.former | {remote.id}
        if not (remote.too_much_at_once and others):
            self.ledger.collected(paid)
            advice = "; set batch_requests lower, or wait for other batches" * remote.too_much_at_once
            reason = remote.error or "no reason given"
            raise Stopped(f"{self.api.name}: batch {remote.id} was refused: {reason}{advice}")
        self.say(f"{self.api.name}: batch {remote.id} is too much at once: waiting for another one to end")
        await asyncio.wait([o.task for o in others if o.task], return_when=asyncio.FIRST_COMPLETED)
        await self._create(paid)
