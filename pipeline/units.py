"""Units of paid work: which are still owed, how they run side by side, when they count as done.

A unit counts once its line is in its shard's journal and synced; finished units are synced in small
batches. A unit that fails is recorded with its error, its shard stays open, and the same command tries it
again. Resume is by key: owed = wanted - held. Units of all shards fill the slots, so that the last ones of
a shard keep nobody waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import Stopped, UserError
from pipeline.progress import Progress
from pipeline.rows import Row
from pipeline.shard import Shard, done_line, failed_line

MOST_IN_A_ROW = 20  # failures without one success between them; then the run stops, the cause is not the unit


@dataclass(frozen=True)
class Unit:
    key: str  # the id of the row it gives
    args: Any


@dataclass
class _Open:
    """A shard being worked on."""

    shard: Shard
    order: list[str]
    missing: int


_Entry = tuple[_Open, Unit, bytes, str | None]  # the unit, its journal line, its error if it failed


async def work(
    todo: Iterable[tuple[Shard, Callable[[], Sequence[Unit]]]],
    do: Callable[[Any], Awaitable[Row]],
    give_up: Callable[[Any, str], Row],
    *,
    concurrency: int,
    accept: int,
    progress: Progress,
    watch: Callable[[], str | None],
) -> None:
    """Do every unit that is owed, and seal each shard when its last unit is in.

    todo: shards with the units wanted of each, asked for only when the shard is reached and not sealed yet.
    give_up: the row of a unit that failed, written when at most `accept` units did.
    watch: says why nothing can work any more, or None; asked twice a second.
    Raises Stopped when the work cannot go on, UserError from `do` as it is.
    """
    owed = _owed(todo)
    failed: list[tuple[_Open, Unit, str]] = []
    journal: _Journal = _Journal(progress)
    writer = asyncio.create_task(journal.run())
    streak = 0

    async def worker() -> None:
        nonlocal streak
        for at, unit, tried in owed:
            try:
                line, error = done_line(await do(unit.args)), None
                streak = 0
            except (UserError, Stopped):
                raise
            except Exception as e:  # noqa: BLE001  the boundary that turns a failing unit into data
                error = f"{type(e).__name__}: {e}"
                line = failed_line(unit.key, error)
                failed.append((at, unit, error))
                streak += not tried  # what failed in an earlier try too says nothing of the server
            journal.put(at, unit, line, error)
            if streak >= MOST_IN_A_ROW:
                raise Stopped(f"{streak} units failed in a row, the last with {error}")

    try:
        await _together([worker] * concurrency, watch, writer)
        if len(failed) <= accept:
            for at, unit, error in failed:
                journal.put(at, unit, done_line(give_up(unit.args, error)), None)
    finally:
        journal.close()
        await writer


def _owed(todo: Iterable[tuple[Shard, Callable[[], Sequence[Unit]]]]) -> Iterator[tuple[_Open, Unit, bool]]:
    for shard, wanted in todo:
        if shard.sealed:
            continue
        units = wanted()
        shard.mend()
        held = shard.held()
        missing = [unit for unit in units if unit.key not in held.keys]
        at = _Open(shard=shard, order=[unit.key for unit in units], missing=len(missing))
        if missing:
            yield from ((at, unit, unit.key in held.failed) for unit in missing)
        else:
            shard.seal(at.order)


async def _together(
    workers: list[Callable[[], Awaitable[None]]], watch: Callable[[], str | None], writer: asyncio.Task[None]
) -> None:
    """Run all workers to their end; the first error, and bad news of any kind, stops them all."""

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
            async with asyncio.TaskGroup() as inner:
                for worker in workers:
                    inner.create_task(worker())  # type: ignore[arg-type]
            listener.cancel()
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Journal:
    """The one writer: takes finished units, syncs them in batches, seals shards, all off the event loop."""

    def __init__(self, progress: Progress) -> None:
        self._queue: asyncio.Queue[_Entry | None] = asyncio.Queue()
        self._progress = progress

    def put(self, at: _Open, unit: Unit, line: bytes, error: str | None) -> None:
        self._queue.put_nowait((at, unit, line, error))

    def close(self) -> None:
        self._queue.put_nowait(None)

    async def run(self) -> None:
        closing = False
        while not closing:
            batch = [await self._queue.get()]
            while not self._queue.empty():
                batch.append(self._queue.get_nowait())
            closing = None in batch
            await asyncio.to_thread(self._commit, [entry for entry in batch if entry])

    def _commit(self, batch: list[_Entry]) -> None:
        by_shard: dict[int, list[_Entry]] = {}
        for entry in batch:
            by_shard.setdefault(id(entry[0]), []).append(entry)
        for entries in by_shard.values():
            at = entries[0][0]
            at.shard.append(line for _, _, line, _ in entries)
            done = sum(error is None for _, _, _, error in entries)
            at.missing -= done
            if not at.missing:
                at.shard.seal(at.order)
            self._progress.update(done=done, failed=len(entries) - done)
