"""Limits of requests and tokens per minute. Clocks are arguments, in seconds."""

from __future__ import annotations

INITIAL_ESTIMATE = 2000  # tokens of the first response; max_tokens is far more than most need
SMOOTHING = 0.2  # weight of the newest response's tokens


class Bucket:
    """A token bucket that may go into debt, which later requests wait for.

    It saves up at most one second's worth, so no minute exceeds the limit by more than that.
    """

    def __init__(self, per_minute: float) -> None:
        self._rate = per_minute / 60
        self._capacity = max(self._rate, 1.0)
        self._left = self._capacity
        self._filled_at: float | None = None

    def wait(self, amount: float, now: float) -> float:
        """Returns the seconds until the amount is available."""
        self._fill(now)
        return max(0.0, (min(amount, self._capacity) - self._left) / self._rate)

    def take(self, amount: float, now: float) -> None:
        """Takes an amount; a negative one gives back what an earlier take took too much."""
        self._fill(now)
        self._left = min(self._capacity, self._left - amount)

    def _fill(self, now: float) -> None:
        passed = 0.0 if self._filled_at is None else max(0.0, now - self._filled_at)
        self._left = min(self._capacity, self._left + passed * self._rate)
        self._filled_at = now


class RateLimiter:
    """The requests and tokens per minute that one account may use."""

    def __init__(self, requests: float | None, tokens: float | None) -> None:
        self._requests = Bucket(requests) if requests else None
        self._tokens = Bucket(tokens) if tokens else None
        self._mean: float | None = None  # tokens per request, exponentially smoothed

    def wait(self, max_tokens: int, now: float) -> float:
        """Returns the seconds until a request may be sent."""
        return max(
            self._requests.wait(1, now) if self._requests else 0.0,
            self._tokens.wait(self._estimate(max_tokens), now) if self._tokens else 0.0,
        )

    def take(self, max_tokens: int, now: float) -> float:
        """Takes one request and returns the number of tokens taken for it, an estimate."""
        estimate = self._estimate(max_tokens)
        if self._requests:
            self._requests.take(1, now)
        if self._tokens:
            self._tokens.take(estimate, now)
        return estimate

    def reconcile(self, estimate: float, tokens: int | None, now: float) -> None:
        """Replaces a request's estimate by the tokens that it used; None if the server did not count them."""
        if self._tokens and tokens is not None:
            self._tokens.take(tokens - estimate, now)
            if tokens:
                mean = tokens if self._mean is None else self._mean
                self._mean = mean + SMOOTHING * (tokens - mean)

    def _estimate(self, max_tokens: int) -> float:
        return float(min(max_tokens, INITIAL_ESTIMATE)) if self._mean is None else self._mean
