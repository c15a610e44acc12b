"""What drawing costs: tokens, requests, retries, seconds, money; live in a small file for other shells.

Rows hold the tokens of what was kept on disk; the ledger holds what no row can say: tries, time, the state of
a run that is working right now. A process that is killed takes at most SAVE_EVERY seconds of it along.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from pipeline.engine.atomic_files import write_atomic
from pipeline.errors import UserError
from pipeline.rows import Outcome, Row

if TYPE_CHECKING:
    from pipeline.config.endpoints import Endpoint
    from pipeline.inference.concurrency import Tally
    from pipeline.inference.response import Completion

SAVE_EVERY = 2.0  # seconds


class Account(Row):
    """What one try of a stage used of one teacher."""

    teacher: str
    requests: int
    retries: dict[str, int]  # why -> how many
    prompt_tokens: int
    completion_tokens: int
    spend: float | None  # None where no price is given, or nothing was counted
    uncounted: int = 0  # answers whose server sent no counts: tokens and spend are then the least


class Try(Row):
    """One command's work on a stage."""

    began: str
    seconds: float
    line: str  # the last line of progress
    accounts: tuple[Account, ...]


_Tries = TypeAdapter(tuple[Try, ...])


@dataclass
class UsageMeter:
    """Counts the tokens that one teacher was paid for."""

    teacher: str
    endpoint: Endpoint
    tally: Tally
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0  # answers

    def add(self, got: Completion, before: Completion | None = None) -> None:
        """The tokens of an answer; of one that goes on from `before`, those beyond it."""
        prompt, completion = (before.prompt_tokens, before.completion_tokens) if before else (0, 0)
        self.prompt_tokens += max(0, (got.prompt_tokens or 0) - (prompt or 0))
        self.completion_tokens += max(0, (got.completion_tokens or 0) - (completion or 0))
        self.uncounted += None in (got.prompt_tokens, got.completion_tokens)

    def account(self) -> Account:
        known = bool(self.completion_tokens or not self.uncounted)
        return Account(
            teacher=self.teacher,
            requests=self.tally.requests,
            retries=dict(self.tally.retries),
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            spend=price(self.endpoint, self.prompt_tokens, self.completion_tokens) if known else None,
            uncounted=self.uncounted,
        )


@dataclass
class Ledger:
    """The ledger of a stage's folder: earlier tries as they were left, and this one."""

    folder: Path
    meters: Sequence[UsageMeter]
    outcomes: Counter[Outcome] = field(default_factory=Counter)  # of the traces judged so far

    def __post_init__(self) -> None:
        self._earlier = read(self.folder)
        self._writing = threading.Lock()
        self._began = datetime.now(UTC).isoformat(timespec="seconds")
        self._start = time.monotonic()

    def note(self) -> str:
        """For the line of progress: share kept so far, tokens a second, in flight, retries, spend."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        tokens = sum(meter.completion_tokens for meter in self.meters)
        tallies = [meter.tally for meter in self.meters]
        retries = sum(sum(tally.retries.values()) for tally in tallies)
        judged = self.outcomes.total()
        accounts = [a for t in (*self._earlier, self._try("")) for a in t.accounts]
        spends = [a.spend for a in accounts if a.spend is not None]
        least = "at least " if any(a.uncounted for a in accounts) else ""
        parts = (
            f"kept {100 * self.outcomes['kept'] / judged:.0f} % ({judged} judged)" if judged else "",
            f"{tokens / seconds:,.0f} tokens/s" if tokens or not least else "tokens not counted",
            f"{sum(t.in_flight for t in tallies)} in flight",
            f"{retries} retries" if retries else "",
            f"{least}{sum(spends):.2f} spent" if spends else "",
        )
        return ", ".join(filter(None, parts))

    def save(self, line: str) -> None:
        with self._writing:  # the last save must not be overtaken by the one before
            write_atomic(_path(self.folder), _Tries.dump_json((*self._earlier, self._try(line))))

    def _try(self, line: str) -> Try:
        return Try(
            began=self._began,
            seconds=round(time.monotonic() - self._start, 1),
            line=line,
            accounts=tuple(meter.account() for meter in self.meters),
        )


def price(endpoint: Endpoint, prompt_tokens: int, completion_tokens: int) -> float | None:
    """What so many tokens cost; None where the endpoint names no price."""
    if endpoint.price_per_mtok_in is None and endpoint.price_per_mtok_out is None:
        return None
    return (
        prompt_tokens * (endpoint.price_per_mtok_in or 0)
        + completion_tokens * (endpoint.price_per_mtok_out or 0)
    ) / 1e6


def read(folder: Path) -> tuple[Try, ...]:
    """Every try on record of a stage's folder, the last one perhaps still at work; () when there is none.

    Raises UserError when it cannot be read: nobody knows then what earlier tries cost.
    """
    try:
        return _Tries.validate_json(_path(folder).read_bytes())
    except FileNotFoundError:
        return ()
    except ValidationError:
        raise UserError(
            f"{_path(folder)} is damaged: put a copy in its place, or delete it, and what was spent so far "
            "is forgotten"
        ) from None


def asked(tries: Sequence[Try]) -> tuple[int, Counter[str]]:
    """Requests over all tries, and why how many of them were asked again."""
    accounts = [account for done in tries for account in done.accounts]
    retries = sum((Counter(account.retries) for account in accounts), Counter[str]())
    return sum(account.requests for account in accounts), retries


def _path(folder: Path) -> Path:
    return folder / "ledger.json"
