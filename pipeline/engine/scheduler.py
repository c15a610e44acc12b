"""Resumable scheduler for paid requests.

An item is done once its row is fsynced to its shard's journal; rows are synced in small batches. A failed
item is recorded with its error, its shard stays open, and the next command tries the item again. A shard's
`Plan` derives the open items from the journal and from each new row, so resuming and continuing are the same.
Items of all shards share the slots, the longest first.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from pipeline.engine import sealed_file
from pipeline.engine.journal import done_line, failed_line, journals_in
from pipeline.engine.journal_writer import JournalWriter
from pipeline.engine.progress import Progress, say
from pipeline.engine.shard import MISSING, Shard
from pipeline.errors import Stopped, UserError, WorkItemFailed
from pipeline.rows import Row

MAX_CONSECUTIVE_FAILURES = 20  # then the run stops: the cause is not the items
REFUSALS_PER_FAILURE = 10  # refused items that count as one such failure, since each may be at fault itself
MAX_PENDING = 20_000  # items of opened shards; a queue that is ahead of the others waits there
HEALTH_CHECK_INTERVAL = 0.5  # seconds
LOOK_INTERVAL = 2.0  # seconds between two looks at who else works on the open shards


@dataclass(frozen=True)
class WorkItem:
    key: str  # the id of its row
    payload: Any
    queue: str = ""  # whose slots it takes
    length: float = 0  # expected duration relative to other items, in any unit
    failed_before: bool = False  # in an earlier command


@dataclass
class Plan:
    """What remains to be done for a shard.

    `next_items` returns the items that follow from a row and is called once per row. An item with the key of
    an existing row replaces that row.
    """

    shard: Shard
    order: Sequence[str]  # all possible keys, in the order of the sealed rows
    done: set[str]  # keys with a row; the scheduler adds to them
    items: Sequence[WorkItem]  # open at the start
    next_items: Callable[[Any], Sequence[WorkItem]] = lambda row: ()
    remaining: int = field(init=False)
    counted: frozenset[str] = field(init=False)  # keys that the progress counted before the start

    def __post_init__(self) -> None:
        self.remaining = len(self.items)
        self.counted = frozenset(self.done)

    def seal(self) -> None:
        """Seals the shard; if items are still open, with their number."""
        missing = {MISSING: self.remaining} if self.remaining else {}
        self.shard.seal([key for key in self.order if key in self.done], missing)


async def run_items(
    shards: Iterable[Shard],
    make_plan: Callable[[Shard], Plan],
    process: Callable[[WorkItem], Awaitable[Row]],
    fallback_row: Callable[[WorkItem, str], Row],
    *,
    slots: Mapping[str, int],
    follow_up_slots: Mapping[str, int] | None = None,
    max_failed: Callable[[], int],
    progress: Progress,
    health_check: Callable[[], str | None],
    limit_reached: Callable[[Mapping[str, int]], str | None] = lambda running: None,
) -> None:
    """Runs every open item, and seals each shard when its last item is done.

    make_plan: called only for a shard that is reached unsealed.
    fallback_row: makes the row of a failed item; used at the end if at most `max_failed()` items failed.
    slots: queue -> number of its items that run at once; follow_up_slots: the same for queues that are filled
        by `next_items` only.
    health_check: returns why no item can succeed any more, or None; called twice a second.
    limit_reached: returns why no further item may start, or None; called before each start with the number of
        items that run, by queue.
    Raises Stopped when the work cannot continue; a UserError of `process` passes through.
    """
    sealed_file.preload()
    all_slots = {**slots, **(follow_up_slots or {})}
    journal = JournalWriter(progress)
    pending = _PendingQueue(shards, make_plan, slots, all_slots)
    pool = _WorkerPool(pending, process, all_slots, journal, limit_reached)
    writer = asyncio.create_task(journal.run())
    given_up = 0
    try:
        while True:
            await _monitored(pool.run(), health_check, writer)
            pool.check_limit()
            if not pool.failed or given_up + len(pool.failed) > max_failed():
                break
            given_up += len(pool.failed)
            await pool.finish_failed(fallback_row)  # which may lead to further items
        pending.check_taken_over()
    finally:
        journal.close()
        await writer


class _PendingQueue:
    """Open items by queue, longest first. Shards are opened as free slots demand items."""

    def __init__(
        self,
        shards: Iterable[Shard],
        make_plan: Callable[[Shard], Plan],
        slots: Mapping[str, int],
        queues: Iterable[str],
    ) -> None:
        self._shards, self._make_plan, self._slots = iter(shards), make_plan, slots
        self._queues: dict[str, list[tuple[float, int, Plan, WorkItem]]] = {name: [] for name in queues}
        self._arrival = count()  # keeps items of equal length in order
        self._opened: list[Shard] = []
        self._looked, self._seen = 0.0, 0  # when the folder was listed last, and its modification time then
        self._taken_over = ""  # a shard that another process has begun

    def add(self, plan: Plan, items: Iterable[WorkItem]) -> None:
        for item in items:
            heapq.heappush(self._queues[item.queue], (-item.length, next(self._arrival), plan, item))

    def next(self, name: str) -> tuple[Plan, WorkItem] | None:
        """Takes the queue's longest item. First opens shards until it holds more items than it has slots.

        Items of a shard that another process has sealed meanwhile are dropped. Once another process has begun
        with one of the shards, nothing more is taken.
        """
        queue = self._queues[name]
        while not self._is_taken_over():
            while len(queue) <= self._slots.get(name, -1) and self._has_room() and self._open_shard():
                pass
            if not queue:
                break
            plan, item = heapq.heappop(queue)[2:]
            if not plan.shard.sealed:
                return plan, item
        return None

    def check_taken_over(self) -> None:
        if self._taken_over:
            raise Stopped(f"another process has taken over, beginning with {self._taken_over}; it finishes")

    def _is_taken_over(self) -> bool:
        """Whether this process was paused or cut off so long that its shards were given to another one."""
        if self._taken_over or not self._opened:
            return bool(self._taken_over)
        folder, now = self._opened[0].path.parent, time.monotonic()
        changed = folder.stat().st_mtime_ns  # a network file system may show it late, hence the interval
        if changed != self._seen or now - self._looked > LOOK_INTERVAL:
            self._opened = [shard for shard in self._opened if not shard.sealed]
            journals = journals_in(folder)
            taken = (s.name for s in self._opened if s.taken_over(journals.get(s.name, ())))
            self._taken_over, self._looked, self._seen = next(taken, ""), now, changed
        return bool(self._taken_over)

    def _has_room(self) -> bool:
        return sum(map(len, self._queues.values())) < MAX_PENDING

    def _open_shard(self) -> bool:
        for shard in self._shards:
            if shard.sealed:
                continue
            if damaged := shard.repair():
                say(f"{shard.path.with_suffix('')}: {damaged} damaged lines; their items run again")
            plan = self._make_plan(shard)
            self._opened.append(shard)
            if plan.items:
                self.add(plan, plan.items)
                return True
            plan.seal()
        return False


class _WorkerPool:
    """Runs items concurrently, up to the number of slots of each queue."""

    def __init__(
        self,
        pending: _PendingQueue,
        process: Callable[[WorkItem], Awaitable[Row]],
        slots: Mapping[str, int],
        journal: JournalWriter,
        limit_reached: Callable[[Mapping[str, int]], str | None],
    ) -> None:
        self._pending, self._process, self._slots, self._journal = pending, process, slots, journal
        self._limit_reached = limit_reached
        self._running: Counter[str] = Counter()
        self._failures: Counter[bool] = Counter()  # since the last success, by whether the item was refused
        self.failed: list[tuple[Plan, WorkItem, str]] = []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._fill_slots(group)

    def check_limit(self) -> None:
        """Raises Stopped if items are left because a limit was reached."""
        if (reason := self._limit_reached(self._running)) and any(
            self._pending.next(queue) for queue in self._slots
        ):
            raise Stopped(reason)

    async def finish_failed(self, fallback_row: Callable[[WorkItem, str], Row]) -> None:
        """Gives the failed items their fallback rows."""
        failed, self.failed = self.failed, []
        self._failures.clear()
        rows = [(plan, item, fallback_row(item, error)) for plan, item, error in failed]
        await asyncio.gather(*(self._finish(*row) for row in rows))

    def _fill_slots(self, group: asyncio.TaskGroup) -> None:
        for queue, limit in self._slots.items():
            while (
                self._running[queue] < limit
                and not self._limit_reached(self._running)
                and (taken := self._pending.next(queue))
            ):
                self._running[queue] += 1
                group.create_task(self._run_one(group, *taken))

    async def _run_one(self, group: asyncio.TaskGroup, plan: Plan, item: WorkItem) -> None:
        try:
            row = await self._process(item)
        except (UserError, Stopped, OSError, MemoryError):  # the last two are the machine's, not the item's
            raise
        except Exception as e:  # noqa: BLE001  the boundary that turns a failing item into data
            refused = isinstance(e, WorkItemFailed) and e.refused
            await self._record_failure(plan, item, f"{type(e).__name__}: {e}", refused)
        else:
            self._failures.clear()
            await self._finish(plan, item, row)
        self._running[item.queue] -= 1
        self._fill_slots(group)

    async def _finish(self, plan: Plan, item: WorkItem, row: Row) -> None:
        """Returns when the row is on disk: until then the item keeps its slot, as it is still in flight."""
        more = plan.next_items(row)
        plan.done.add(item.key)
        plan.remaining += len(more) - 1
        final = item.key not in plan.counted and all(other.key != item.key for other in more)
        await self._journal.write(plan, done_line(row), done=final)
        self._pending.add(plan, more)

    async def _record_failure(self, plan: Plan, item: WorkItem, error: str, refused: bool) -> None:
        self.failed.append((plan, item, error))
        line = failed_line(item.key, error, first=item.key not in plan.done)
        await self._journal.write(plan, line, failed=True)
        if not item.failed_before:  # a repeated failure says little about the server
            self._failures[refused] += 1
        weighted = self._failures[False] + self._failures[True] // REFUSALS_PER_FAILURE
        if weighted >= MAX_CONSECUTIVE_FAILURES:
            raise Stopped(f"{self._failures.total()} items failed in a row, the last with {error}")


async def _monitored(
    work: Awaitable[None], health_check: Callable[[], str | None], writer: asyncio.Task[None]
) -> None:
    """Awaits the work; stops it when the health check reports a problem or the journal writer fails."""

    async def monitor() -> None:
        while True:
            if writer.done():
                await writer
            if problem := health_check():
                raise Stopped(problem)
            await asyncio.sleep(HEALTH_CHECK_INTERVAL)

    try:
        async with asyncio.TaskGroup() as group:
            monitoring = group.create_task(monitor())
            await work
            monitoring.cancel()
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
