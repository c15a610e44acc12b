"""Counts what requests use: tokens, requests, retries, seconds, money. Saved in files for other shells.

Rows hold the tokens of saved responses only. The usage log adds what no row can hold: all requests of all
attempts, their duration, and the state of a running command. A kill loses at most its last SAVE_INTERVAL.
Each process writes a file of its own, usage.OWNER.json, since several may work on one folder.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.engine import checksums
from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.owner import this_owner
from pipeline.errors import UserError
from pipeline.generate.price import price
from pipeline.inference import server_memory
from pipeline.rows import Outcome, Row

if TYPE_CHECKING:
    from pipeline.config.endpoints import Endpoint
    from pipeline.engine.progress import Progress
    from pipeline.inference.response import Completion
    from pipeline.inference.vllm_server import Server

SAVE_INTERVAL = 2.0  # seconds
SILENT = 5 * SAVE_INTERVAL  # a process that saved nothing for so long has ended
READ_INTERVAL = 20.0  # seconds between two looks at what other processes use


class EndpointUsage(Row):
    """What one attempt used of one model."""

    teacher: str
    requests: int
    retries: dict[str, int]  # by reason
    prompt_tokens: int
    completion_tokens: int
    spend: float | None  # None without a price, or if nothing was counted
    uncounted: int = 0  # responses without token counts: tokens and spend are then lower bounds


class Attempt(Row):
    """One command's work on a stage."""

    began: str
    seconds: float
    line: str  # the last progress line
    endpoints: tuple[EndpointUsage, ...]
    memory: int | None = None  # bytes that the servers started here held at most; None: unknown


class _Attempts(Row):
    """The attempts of one process on a stage's folder: the content of a usage file."""

    attempts: tuple[Attempt, ...] = ()


class RequestCounts(Protocol):
    """What a client counts of its requests."""

    requests: int  # sent
    retries: Counter[str]  # by cause
    lost: tuple[int, int]  # prompt and completion tokens of responses that could not be used

    @property
    def in_flight(self) -> int: ...


@dataclass
class UsageMeter:
    """Counts the tokens that one model is paid for."""

    teacher: str
    endpoint: Endpoint
    pool: RequestCounts
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0  # responses

    def add(self, completion: Completion, so_far: Completion | None = None) -> None:
        """Adds a response's tokens; for a continuation, those beyond `so_far`."""
        prompt, response = (so_far.prompt_tokens, so_far.completion_tokens) if so_far else (0, 0)
        self.prompt_tokens += max(0, (completion.prompt_tokens or 0) - (prompt or 0))
        self.completion_tokens += max(0, (completion.completion_tokens or 0) - (response or 0))
        self.uncounted += None in (completion.prompt_tokens, completion.completion_tokens)

    def usage(self) -> EndpointUsage:
        lost_prompt, lost_completion = self.pool.lost
        prompt, completion = self.prompt_tokens + lost_prompt, self.completion_tokens + lost_completion
        known = bool(completion or not self.uncounted)
        return EndpointUsage(
            teacher=self.teacher,
            requests=self.pool.requests,
            retries=dict(self.pool.retries),
            prompt_tokens=prompt,
            completion_tokens=completion,
            spend=price(self.endpoint, prompt, completion) if known else None,
            uncounted=self.uncounted,
        )


@dataclass
class UsageLog:
    """The usage of a stage's folder: earlier attempts as saved, and the current one."""

    folder: Path
    meters: Sequence[UsageMeter]
    outcomes: Counter[Outcome] = field(default_factory=Counter)  # of the traces filtered so far
    servers: Sequence[Server] = ()
    memory: int | None = None  # as in Attempt

    def __post_init__(self) -> None:
        self._path = self.folder / f"usage.{this_owner()}.json"
        self._own = _read(self._path).attempts  # of earlier commands of this process
        self._earlier = self._read_earlier()
        self._saving = threading.Lock()
        self._began = datetime.now(UTC).isoformat(timespec="seconds")
        self._start = time.monotonic()

    def _read_earlier(self) -> list[EndpointUsage]:
        """What other attempts used, also those that are at work now in other processes."""
        self._read_at = time.monotonic()
        others = (path for path in _files(self.folder) if path != self._path)
        attempts = (*self._own, *(attempt for path in others for attempt in _read(path).attempts))
        return [usage for attempt in attempts for usage in attempt.endpoints]

    def usages(self) -> list[EndpointUsage]:
        """What all attempts have used so far."""
        return [*self._earlier, *(meter.usage() for meter in self.meters)]

    @asynccontextmanager
    async def reporting(self, progress: Progress, total: Callable[[], int]) -> AsyncIterator[None]:
        """Keeps the progress line and the usage file up to date during the block."""

        async def report() -> None:
            progress.note, progress.total = self.note(), total()
            await asyncio.to_thread(self.save, progress.line())

        async def report_regularly() -> None:
            while True:
                await asyncio.sleep(SAVE_INTERVAL)
                await report()

        task = asyncio.create_task(report_regularly())
        try:
            yield
        finally:
            task.cancel()
            await report()

    def note(self) -> str:
        """The progress line's note: share kept, tokens per second, requests in flight, retries, spend."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        tokens = sum(meter.completion_tokens for meter in self.meters)
        stats = [meter.pool for meter in self.meters]
        retries = sum(sum(s.retries.values()) for s in stats)
        filtered = self.outcomes.total()
        usages = self.usages()
        spends = [u.spend for u in usages if u.spend is not None]
        at_least = "at least " if any(u.uncounted for u in usages) else ""
        parts = (
            f"kept {100 * self.outcomes['kept'] / filtered:.0f} % ({filtered} filtered)" if filtered else "",
            f"{tokens / seconds:,.0f} tokens/s" if tokens or not at_least else "tokens not counted",
            f"{sum(s.in_flight for s in stats)} in flight",
            f"{retries} retries" if retries else "",
            f"{at_least}{sum(spends):.2f} spent" if spends else "",
        )
        return ", ".join(filter(None, parts))

    def save(self, line: str) -> None:
        with self._saving:  # an earlier save must not finish after a later one
            if now := server_memory.used(self.servers):
                self.memory = max(now, self.memory or 0)
            own = _Attempts(attempts=(*self._own, self._attempt(line)))
            write_atomic(self._path, checksums.document(own.model_dump_json().encode()))
            if time.monotonic() - self._read_at > READ_INTERVAL:
                self._earlier = self._read_earlier()

    def _attempt(self, line: str) -> Attempt:
        return Attempt(
            began=self._began,
            seconds=round(time.monotonic() - self._start, 1),
            line=line,
            endpoints=tuple(meter.usage() for meter in self.meters),
            memory=self.memory,
        )


def read_attempts(folder: Path) -> tuple[Attempt, ...]:
    """All attempts on a stage's folder, by process; those of processes at work go on.

    Raises UserError if a file is damaged, since the cost of earlier attempts is then unknown.
    """
    return tuple(attempt for path in _files(folder) for attempt in _read(path).attempts)


def running(folder: Path) -> tuple[Attempt, ...]:
    """The attempts that are at work, of a folder that is worked on: those saved as lately as the last one."""
    saved = {path: path.stat().st_mtime for path in _files(folder)}
    latest = max(saved.values(), default=0)
    found = (_read(path).attempts[-1:] for path, at in saved.items() if latest - at < SILENT)
    return tuple(attempt for last in found for attempt in last)


def _files(folder: Path) -> list[Path]:
    """The usage files of a stage's folder, in the order in which their processes started."""
    return sorted(folder.glob("usage.*.json"))


def _read(path: Path) -> _Attempts:
    try:
        return _Attempts.model_validate_json(checksums.verified(path.read_bytes()))
    except FileNotFoundError:
        return _Attempts()
    except ValueError:
        raise UserError(
            f"{path} is damaged: restore it from a copy, or delete it and forget what was spent"
        ) from None


def count_requests(attempts: Sequence[Attempt]) -> tuple[int, Counter[str]]:
    """The requests of all attempts, and the retries by reason."""
    usages = [usage for attempt in attempts for usage in attempt.endpoints]
    retries = sum((Counter(usage.retries) for usage in usages), Counter[str]())
    return sum(usage.requests for usage in usages), retries
