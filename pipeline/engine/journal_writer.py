"""Writes the rows of work items to journals, off the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.engine.progress import Progress

if TYPE_CHECKING:
    from pipeline.engine.scheduler import Plan
    from pipeline.engine.shard import Shard


@dataclass
class _Entry:
    plan: Plan
    line: bytes
    done: bool  # the row is final
    failed: bool
    last: bool  # nothing remains of the shard
    on_disk: asyncio.Future[None]


class JournalWriter:
    """The only writer of journals: syncs lines in batches and seals shards, in a thread of its own."""

    def __init__(self, progress: Progress) -> None:
        self._queue: asyncio.Queue[_Entry | None] = asyncio.Queue()
        self._progress = progress
        self._error: Exception | None = None

    async def write(self, plan: Plan, line: bytes, done: bool = False, failed: bool = False) -> None:
        """Returns when the line is on disk. Raises the error that ended the writer."""
        if self._error:
            raise self._error
        on_disk = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Entry(plan, line, done, failed, plan.remaining == 0, on_disk))
        await on_disk

    def close(self) -> None:
        self._queue.put_nowait(None)

    async def run(self) -> None:
        closing, loop = False, asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as thread:  # not the shared threads: filters may occupy them all
            while not closing:
                waiting = [await self._queue.get()]
                while not self._queue.empty():
                    waiting.append(self._queue.get_nowait())
                closing = None in waiting
                batch = [entry for entry in waiting if entry]
                try:
                    await loop.run_in_executor(thread, self._commit, batch)
                except Exception as e:
                    self._error = e
                    raise
                finally:
                    self._answer(batch)

    def _answer(self, batch: list[_Entry]) -> None:
        for entry in batch:
            if entry.on_disk.done():  # cancelled: nobody waits for it any more
                continue
            if self._error:
                entry.on_disk.set_exception(self._error)
            else:
                entry.on_disk.set_result(None)

    def _commit(self, batch: list[_Entry]) -> None:
        by_shard: dict[Shard, list[_Entry]] = {}
        for entry in batch:
            by_shard.setdefault(entry.plan.shard, []).append(entry)
        for shard, entries in by_shard.items():
            shard.append(entry.line for entry in entries)
            if any(entry.last for entry in entries):
                entries[0].plan.seal()
            self._progress.update(sum(e.done for e in entries), sum(e.failed for e in entries))
