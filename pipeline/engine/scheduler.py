"""Units of paid work: which are still owed, how they run side by side, when they count as done.

A unit counts once its row is in its shard's journal and synced; finished units are synced in small batches.
A unit that fails is recorded with its error, its shard stays open, and the same command tries it again. Which
units a shard owes, at first and after each row, its Plan says from what the journal holds, so resuming and
going on are one thing. Units of all shards fill the slots, the longest first.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from pipeline.engine import sealed_file
from pipeline.engine.progress import Progress, say
from pipeline.engine.shard import Shard, done_line, failed_line
from pipeline.errors import Stopped, UserError, WorkItemFailed
from pipeline.rows import Row

MOST_IN_A_ROW = 20  # failures without one success between them; then the run stops, the cause is not the unit
REFUSALS = 10  # of units for their own sake that count as one of these
MAX_PENDING = 20_000  # units in sight, at most: a lane that is ahead of the others waits for them


@dataclass(frozen=True)
class WorkItem:
    key: str  # the id of the row it gives
    args: Any
    lane: str = ""  # whose slots it takes
    length: float = 0  # how long it may take beside others, in any measure
    tried: bool = False  # and failed, by an earlier command


@dataclass
class Plan:
    """What a shard still owes.

    `follow` gives the units that are owed because of a row, and is called once for each row. A unit with the
    key of a row that is there takes that row's place.
    """

    shard: Shard
    order: Sequence[str]  # all keys that may come, in the order in which their rows will lie
    held: set[str]  # those that are in; the engine adds to them
    units: Sequence[WorkItem]  # owed now
    follow: Callable[[Any], Sequence[WorkItem]] = lambda row: ()
    missing: int = field(init=False)
    counted: frozenset[str] = field(init=False)  # keys of rows that were there, and stand in the progress

    def __post_init__(self) -> None:
        self.missing = len(self.units)
        self.counted = frozenset(self.held)


Todo = Iterable[tuple[Shard, Callable[[], Plan]]]


async def work(
    todo: Todo,
    do: Callable[[WorkItem], Awaitable[Row]],
    give_up: Callable[[WorkItem, str], Row],
    *,
    slots: Mapping[str, int],
    after: Mapping[str, int] | None = None,
    accept: Callable[[], int],
    progress: Progress,
    watch: Callable[[], str | None],
) -> None:
    """Do every unit that is owed, and seal each shard when its last unit is in.

    todo: shards, each with what makes its plan, asked only when the shard is reached and not sealed yet.
    give_up: the row of a unit that failed, written when no more units did than `accept` says by then.
    slots: lane -> how many of its units run side by side. after: the same of lanes that only rows lead to.
    watch: says why nothing can work any more, or None; asked twice a second.
    Raises Stopped when the work cannot go on, UserError from `do` as it is.
    """
    sealed_file.load()
    journal = _Journal(progress)
    crew = _WorkerPool(_PendingQueue(todo, slots, after or {}), do, {**slots, **(after or {})}, journal)
    writer = asyncio.create_task(journal.run())
    given_up = 0
    try:
        while True:
            await _watched(crew.run(), watch, writer)
            if not crew.failed or given_up + len(crew.failed) > accept():
                break
            given_up += len(crew.failed)
            crew.settle_failed(give_up)
    finally:
        journal.close()
        await writer


class _PendingQueue:
    """Units that are owed, by lane. Shards are opened as the slots ask for more."""

    def __init__(self, todo: Todo, slots: Mapping[str, int], after: Iterable[str]) -> None:
        self._shards = iter(todo)
        self._ahead = slots
        self._lanes: dict[str, list[tuple[float, int, Plan, WorkItem]]] = {
            lane: [] for lane in (*slots, *after)
        }
        self._turn = count()  # those of one length come in the order in which they were owed

    def add(self, plan: Plan, units: Iterable[WorkItem]) -> None:
        for unit in units:
            heapq.heappush(self._lanes[unit.lane], (-unit.length, next(self._turn), plan, unit))

    def next(self, lane: str) -> tuple[Plan, WorkItem] | None:
        """The longest of the lane's units within reach: as many as its slots are always kept in sight."""
        waiting = self._lanes[lane]
        while len(waiting) <= self._ahead.get(lane, -1) and self._in_sight() and self._open_shard():
            pass
        return heapq.heappop(waiting)[2:] if waiting else None

    def _in_sight(self) -> bool:
        return sum(map(len, self._lanes.values())) < MAX_PENDING

    def _open_shard(self) -> bool:
        for shard, make_plan in self._shards:
            if shard.sealed:
                continue
            if damaged := shard.mend():
                say(f"{shard.journal}: {damaged} lines are damaged; what they held is owed again")
            plan = make_plan()
            if plan.units:
                self.add(plan, plan.units)
                return True
            _seal(plan)
        return False


class _WorkerPool:
    """Runs units side by side, as many in each lane as it has slots."""

    def __init__(
        self,
        owed: _PendingQueue,
        do: Callable[[WorkItem], Awaitable[Row]],
        slots: Mapping[str, int],
        journal: _Journal,
    ) -> None:
        self._owed, self._do, self._slots, self._journal = owed, do, slots, journal
        self._running: Counter[str] = Counter()
        self._streak: Counter[bool] = Counter()  # failures in a row: refused for their own sake, or not
        self.failed: list[tuple[Plan, WorkItem, str]] = []

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._fill(group)

    def settle_failed(self, give_up: Callable[[WorkItem, str], Row]) -> None:
        """Write the units that failed as the rows they are given up with."""
        failed, self.failed = self.failed, []
        self._streak.clear()
        for plan, unit, error in failed:
            self._settle(plan, unit, give_up(unit, error))

    def _fill(self, group: asyncio.TaskGroup) -> None:
        for lane, most in self._slots.items():
            while self._running[lane] < most and (taken := self._owed.next(lane)):
                self._running[lane] += 1
                group.create_task(self._one(group, *taken))

    async def _one(self, group: asyncio.TaskGroup, plan: Plan, unit: WorkItem) -> None:
        try:
            row = await self._do(unit)
        except (UserError, Stopped, OSError, MemoryError):  # the last two: of this machine, not of the unit
            raise
        except Exception as e:  # noqa: BLE001  the boundary that turns a failing unit into data
            own = isinstance(e, WorkItemFailed) and e.refused
            self._failure(plan, unit, f"{type(e).__name__}: {e}", own)
        else:
            self._streak.clear()
            self._settle(plan, unit, row)
        self._running[unit.lane] -= 1
        self._fill(group)

    def _settle(self, plan: Plan, unit: WorkItem, row: Row) -> None:
        more = plan.follow(row)
        plan.held.add(unit.key)
        plan.missing += len(more) - 1
        new = unit.key not in plan.counted and all(u.key != unit.key for u in more)
        self._journal.put(plan, done_line(row), done=new)
        self._owed.add(plan, more)

    def _failure(self, plan: Plan, unit: WorkItem, error: str, own: bool) -> None:
        self.failed.append((plan, unit, error))
        self._journal.put(plan, failed_line(unit.key, error), failed=True)
        if not unit.tried:  # what failed in an earlier try too says nothing of the server
            self._streak[own] += 1
        if self._streak[False] + self._streak[True] // REFUSALS >= MOST_IN_A_ROW:
            raise Stopped(f"{self._streak.total()} units failed in a row, the last with {error}")


async def _watched(
    crew: Awaitable[None], watch: Callable[[], str | None], writer: asyncio.Task[None]
) -> None:
    """Let the crew work to its end; the first error, and bad news of any kind, stops it."""

    async def listen() -> None:
        while True:
            if writer.done():
                await writer
            if news := watch():
                raise Stopped(news)
            await asyncio.sleep(0.5)

    try:
        async with asyncio.TaskGroup() as group:
            listener = group.create_task(listen())
            await crew
            listener.cancel()
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _seal(plan: Plan) -> None:
    plan.shard.seal([key for key in plan.order if key in plan.held])


@dataclass
class _Entry:
    plan: Plan
    line: bytes
    done: bool  # a row that stays
    failed: bool
    last: bool  # nothing more is owed of the shard


class _Journal:
    """The one writer: takes finished units, syncs them in batches, seals shards, all off the event loop."""

    def __init__(self, progress: Progress) -> None:
        self._queue: asyncio.Queue[_Entry | None] = asyncio.Queue()
        self._progress = progress

    def put(self, plan: Plan, line: bytes, done: bool = False, failed: bool = False) -> None:
        self._queue.put_nowait(_Entry(plan, line, done, failed, last=plan.missing == 0))

    def close(self) -> None:
        self._queue.put_nowait(None)

    async def run(self) -> None:
        closing, loop = False, asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as own:  # the shared threads may all be judging
            while not closing:
                batch = [await self._queue.get()]
                while not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                closing = None in batch
                await loop.run_in_executor(own, self._commit, [entry for entry in batch if entry])

    def _commit(self, batch: list[_Entry]) -> None:
        for plan, entries in _by_plan(batch):
            plan.shard.append(entry.line for entry in entries)
            if any(entry.last for entry in entries):
                _seal(plan)
            self._progress.update(
                done=sum(entry.done for entry in entries), failed=sum(entry.failed for entry in entries)
            )


def _by_plan(batch: list[_Entry]) -> Iterator[tuple[Plan, list[_Entry]]]:
    groups: dict[int, list[_Entry]] = {}
    for entry in batch:
        groups.setdefault(id(entry.plan), []).append(entry)
    for entries in groups.values():
        yield entries[0].plan, entries
