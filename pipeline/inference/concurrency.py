"""Adaptive concurrency (AIMD) per endpoint, and cooldown of failing endpoints.

Pure state: nothing here knows HTTP, and clocks are arguments, in seconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

INITIAL_LIMIT = 8
FAST = 2.0  # seconds to first byte that are never a sign of queueing
SLOW_FACTOR = 3  # times the best; beyond it requests are queueing
SMOOTHING = 0.2  # weight of the newest time to first byte
SHRINK = 0.7
TOLERATED_OVERLOADS = 3  # in a round, however short it is
MAX_COOLDOWN = 60.0  # seconds
FAILURES_TO_COOLDOWN = 8  # in a row


class ConcurrencyLimit:
    """The number of requests in flight that one endpoint may have.

    Doubles each round (slow start) while time to first byte stays under 3x the best and the limit is reached;
    after the first overload it grows by 1 a round. Shrinks to x0.7, once a round, when over a third of the
    round is rejected as overload: an overloaded server rejects at once, so rejections soon outnumber
    responses, and occasional ones mean nothing. A round ends when all responses in flight have begun, or
    after as many first bytes and overloads as the limit, at least 8.
    """

    def __init__(self, ceiling: int, initial: int = INITIAL_LIMIT) -> None:
        self.ceiling = ceiling
        self.limit = float(min(initial, ceiling))
        self.in_flight = 0
        self._begun = 0  # of those in flight
        self._doubling = True
        self._smoothed: float | None = None  # seconds to first byte
        self._best = float("inf")
        self._round = INITIAL_LIMIT  # first bytes and overloads until the round ends
        self._count = self._overloads = 0  # in this round
        self._peak = 0  # in flight in this round
        self._shrunk = False  # in this round

    def start(self) -> None:
        self.in_flight += 1
        self._peak = max(self._peak, self.in_flight)

    def end(self, begun: bool) -> None:
        """Records the end of a request. `begun`: its response had begun."""
        self.in_flight -= 1
        self._begun -= begun

    def first_byte(self, seconds: float) -> None:
        """Records the first byte of a response and the seconds since its request."""
        self._begun += 1
        past = seconds if self._smoothed is None else self._smoothed
        self._smoothed = past + SMOOTHING * (seconds - past)
        self._best = min(self._best, self._smoothed)
        self._tick()

    def overloaded(self) -> None:
        self._overloads += 1
        if self._overloads > max(TOLERATED_OVERLOADS, self._round / 3) and not self._shrunk:
            self.limit = max(1.0, self.limit * SHRINK)
            self._shrunk, self._doubling = True, False
        self._tick()

    def _tick(self) -> None:
        self._count += 1
        reached = self._peak >= int(self.limit)
        all_begun = reached and self._begun == self.in_flight and not self._overloads
        if self._count < self._round and not all_begun:
            return
        fast = self._smoothed is not None and self._smoothed <= max(FAST, SLOW_FACTOR * self._best)
        if fast and not self._shrunk and reached:
            self.limit = min(float(self.ceiling), self.limit * 2 if self._doubling else self.limit + 1)
        self._round = max(int(self.limit), INITIAL_LIMIT)
        self._count = self._overloads = 0
        self._shrunk, self._peak = False, self.in_flight


class PooledEndpoint:
    """One base URL: its concurrency limit and its cooldown."""

    def __init__(self, name: str, ceiling: int, initial: int = INITIAL_LIMIT) -> None:
        self.name = name
        self.concurrency = ConcurrencyLimit(ceiling, initial)
        self.answered = False  # gave at least one good response
        self.refusal: str | None = None  # why it would refuse every request, as far as is known
        self.cooldown_until = float("-inf")
        self._cooldown_since = float("-inf")
        self._cooldowns = 0
        self._failures = 0  # in a row
        self._probing = False  # no response since the last cooldown: gets one request at a time

    def load(self, now: float) -> float | None:
        """Returns the used share of the limit; None if the endpoint takes no request now."""
        limit = 1 if self._probing else int(self.concurrency.limit)
        if now < self.cooldown_until or self.concurrency.in_flight >= limit:
            return None
        return self.concurrency.in_flight / limit

    def record_first_byte(self, seconds: float) -> None:
        self._probing = False
        self.concurrency.first_byte(seconds)

    def record_success(self) -> None:
        self.answered, self.refusal = True, None
        self._failures = self._cooldowns = 0

    def record_response(self) -> None:
        """Records that the endpoint is alive, though the response was not a good one."""
        self._failures, self._probing = 0, False

    def record_failure(self, started: float, now: float, refused: bool) -> None:
        """Records a failed request that began at `started`. `refused`: no connection."""
        self._failures += 1
        if started >= self._cooldown_since and (
            refused or self._probing or self._failures >= FAILURES_TO_COOLDOWN
        ):
            self.start_cooldown(now, min(MAX_COOLDOWN, 2.0 ** min(self._cooldowns, 6)))

    def start_cooldown(self, now: float, seconds: float = MAX_COOLDOWN) -> None:
        self.cooldown_until, self._cooldown_since = now + seconds, now
        self._cooldowns, self._probing, self._failures = self._cooldowns + 1, True, 0


@dataclass
class Slot:
    """Room for one request at an endpoint."""

    endpoint: PooledEndpoint
    begun: bool = False  # the response has begun


class EndpointPool:
    """Hands out slots in the order of asking, each at the endpoint with the lowest load; counts requests."""

    def __init__(self, endpoints: Sequence[PooledEndpoint], ceiling: int) -> None:
        self.endpoints = endpoints
        self.requests = 0  # sent
        self.retries: Counter[str] = Counter()  # by cause: "429", "5xx", "dropped", ...
        self.lost = (0, 0)  # prompt and completion tokens of responses that could not be used
        self._ceiling = ceiling  # in flight over all endpoints
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        return sum(endpoint.concurrency.in_flight for endpoint in self.endpoints)

    @property
    def limit(self) -> int:
        """The limit of requests in flight over all endpoints."""
        return min(self._ceiling, sum(int(endpoint.concurrency.limit) for endpoint in self.endpoints))

    async def acquire(self) -> Slot:
        """Waits for a slot, which has to be released."""
        loop = asyncio.get_running_loop()
        if not self._waiting and (slot := self._free_slot(loop.time())):
            return slot
        ticket: asyncio.Future[Slot] = loop.create_future()
        self._waiting.append(ticket)
        self.wake()
        try:
            return await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled():  # a slot was assigned during the cancellation
                self.release(ticket.result())
            raise

    def record_first_byte(self, slot: Slot, seconds: float) -> None:
        """Records that a response began, so many seconds after its request."""
        slot.begun = True
        slot.endpoint.record_first_byte(seconds)
        self.wake()

    def record_lost(self, prompt: int, completion: int) -> None:
        """Records the tokens of a response that could not be used, as far as the server counted them."""
        self.lost = self.lost[0] + prompt, self.lost[1] + completion

    def release(self, slot: Slot) -> None:
        slot.endpoint.concurrency.end(slot.begun)
        self.wake()

    def wake(self) -> None:
        """Hands free slots to those who wait; called whenever more may be free."""
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()  # read once, so that an endpoint is either free by it or waited for
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
            elif slot := self._free_slot(now):
                self._waiting.popleft().set_result(slot)
            else:
                self._wake_after_cooldown(loop, now)
                return

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _free_slot(self, now: float) -> Slot | None:
        if self.in_flight >= self._ceiling:
            return None
        loads = [(load, i) for i, e in enumerate(self.endpoints) if (load := e.load(now)) is not None]
        if not loads:
            return None
        endpoint = self.endpoints[min(loads)[1]]
        endpoint.concurrency.start()
        return Slot(endpoint)

    def _wake_after_cooldown(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        ends = [e.cooldown_until for e in self.endpoints if e.cooldown_until > now]
        if self._timer:
            self._timer.cancel()
        self._timer = loop.call_at(min(ends), self.wake) if ends else None
