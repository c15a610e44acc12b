"""When a request may be sent: limits a minute, waits between tries, what Retry-After says.

Clocks are arguments, in seconds. Leaves out how much is in flight (pacing.py).
"""

from __future__ import annotations

import random
import re
from datetime import UTC
from email.utils import parsedate_to_datetime

LONGEST_WAIT = 60.0  # seconds between tries, unless the server asks for more
FIRST_WAIT = 0.5
FIRST_GUESS = 2000  # tokens of an answer while none has come; max_tokens is far more than most need
SMOOTHING = 0.2  # weight of the newest answer's tokens
TURNED_AWAY = 20  # tries turned away while others were answered that count as one that failed


class Bucket:
    """A limit a minute. What is taken beyond it is a debt that the next ones wait for; never more than a
    second's worth is saved up, so that no minute holds more than the limit by more than that."""

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / 60
        self._most = max(self._rate, 1.0)
        self._left = self._most
        self._at: float | None = None

    def wait(self, amount: float, now: float) -> float:
        """The seconds until so much can be taken, as things stand."""
        self._fill(now)
        return max(0.0, (min(amount, self._most) - self._left) / self._rate)

    def take(self, amount: float, now: float) -> None:
        self._fill(now)
        self._left -= amount

    def settle(self, difference: float, now: float) -> None:
        """What was taken came to so much more, or less, than thought."""
        self._fill(now)
        self._left = min(self._most, self._left - difference)

    def _fill(self, now: float) -> None:
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._left = min(self._most, self._left + passed * self._rate)
        self._at = now


class RateLimiter:
    """The limits of requests and of tokens a minute that one account has."""

    def __init__(self, requests: float | None, tokens: float | None) -> None:
        self._requests = Bucket(requests) if requests else None
        self._tokens = Bucket(tokens) if tokens else None
        self._usual: float | None = None  # tokens of an answer, smoothed

    def wait(self, most_tokens: int, now: float) -> float:
        """The seconds until a request may be sent, as things stand."""
        return max(
            self._requests.wait(1, now) if self._requests else 0.0,
            self._tokens.wait(self._guess(most_tokens), now) if self._tokens else 0.0,
        )

    def take(self, most_tokens: int, now: float) -> float:
        """Take one request, and the tokens it is thought to need: those are given back."""
        guess = self._guess(most_tokens)
        if self._requests:
            self._requests.take(1, now)
        if self._tokens:
            self._tokens.take(guess, now)
        return guess

    def settle(self, guess: float, tokens: int | None, now: float) -> None:
        """The request has ended; `tokens`: how many it needed, None where that is not known."""
        if self._tokens and tokens is not None:
            self._tokens.settle(tokens - guess, now)
            if tokens:
                past = tokens if self._usual is None else self._usual
                self._usual = past + SMOOTHING * (tokens - past)

    def _guess(self, most_tokens: int) -> float:
        return float(min(most_tokens, FIRST_GUESS)) if self._usual is None else self._usual


class Tries:
    """The tries of one request, bounded in number.

    One that failed or was cut off counts. One that the server had too much to do for counts for little, and
    only if others were answered since the one before: else it says nothing of this request.
    """

    def __init__(self, retries: int, answered: int) -> None:
        self.failed = 0  # in all
        self._retries, self._answered = retries, answered
        self._counted = self._turned_away = 0

    def fail(self, counts: bool, answered: int) -> None:
        """Another try failed. `answered`: good answers to other requests so far."""
        self.failed += 1
        self._counted += counts
        self._turned_away += not counts and answered > self._answered
        self._answered = answered

    @property
    def spent(self) -> bool:
        """Whether there is none left."""
        return self._counted + self._turned_away // TURNED_AWAY > self._retries

    @property
    def waits(self) -> float:
        """Seconds until the next."""
        return backoff(self.failed - 1)


def backoff(tries: int) -> float:
    """Seconds to wait after so many failed tries: exponential, with full jitter."""
    return random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(tries, 10)))


def read_retry_after(value: str | None, milliseconds: str | None, now: float) -> float | None:
    """The seconds of a Retry-After header, a number or an HTTP date; `now` in seconds since 1970.

    The header Retry-After-Ms of some servers is more exact. None for what is neither, and a time in the past.
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
