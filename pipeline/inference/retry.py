"""Retries of a request: how many, and the delay before each (exponential backoff, Retry-After)."""

from __future__ import annotations

import random
import re
from datetime import UTC
from email.utils import parsedate_to_datetime

MAX_BACKOFF = 60.0  # seconds between attempts, unless the server asks for more
BASE_BACKOFF = 0.5
OVERLOADS_PER_RETRY = 20  # refusals for overload, while others got responses, that count as one failure


class RetryBudget:
    """Counts the failed attempts of one request against its limit.

    A failure or a broken response counts fully. A refusal for overload counts 1/OVERLOADS_PER_RETRY, and only
    if other requests got responses since the last attempt: otherwise it says nothing about this request.
    """

    def __init__(self, retries: int, answered: int) -> None:
        self.failed = 0  # attempts in total
        self._retries, self._answered = retries, answered
        self._counted = self._overloads = 0

    def fail(self, counts: bool, answered: int) -> None:
        """Records a failed attempt. `answered`: good responses to other requests so far."""
        self.failed += 1
        self._counted += counts
        self._overloads += not counts and answered > self._answered
        self._answered = answered

    @property
    def spent(self) -> bool:
        return self._counted + self._overloads // OVERLOADS_PER_RETRY > self._retries


def backoff(retries: int) -> float:
    """Returns the seconds to wait before the next retry: exponential, with full jitter."""
    return random.uniform(0, min(MAX_BACKOFF, BASE_BACKOFF * 2 ** min(retries, 10)))


def read_retry_after(value: str | None, milliseconds: str | None, now: float) -> float | None:
    """Returns the seconds of a Retry-After header, a number or an HTTP date; None if neither, or in the past.

    `milliseconds`: the header Retry-After-Ms of some servers, which is more exact. `now`: Unix time.
    """
    for number, unit in ((milliseconds, 1000), (value, 1)):
        if number is not None and re.fullmatch(r"\s*[0-9]{1,9}(\.[0-9]{0,9})?\s*", number):
            return float(number) / unit
    try:
        date = parsedate_to_datetime(value or "")
        seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now
    except (ValueError, OverflowError):
        return None
    return seconds if seconds > 0 else None
