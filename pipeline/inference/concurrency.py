"""How much is asked at once, and where: a level that finds itself, addresses set aside for a while.

Nothing here knows HTTP; clocks are arguments, in seconds. Leaves out limits a minute and the waits between
tries (limits.py), and the requests themselves (client.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

FIRST_LEVEL = 8
QUICK = 2.0  # seconds to the first byte that are no sign of a queue
SLOWER = 3  # times the best; beyond it requests are queueing
SMOOTHING = 0.2  # weight of the newest time to the first byte
SHRINK = 0.7
SINGLE = 3  # overloads in a round that say nothing, however short it is
MAX_COOLDOWN = 60.0  # seconds
IN_A_ROW = 8  # failures at one address until it is set aside


class ConcurrencyLimit:
    """The limit of requests in flight at one address: grows while it answers quickly, shrinks on overload.

    A round ends when all requests in flight have begun to be answered, or as many first bytes and overloads
    came as the limit, eight at least. The limit doubles each round until there was an overload, and grows by
    one a round from there; only while it is really reached, and not while first bytes are slow. Overload is
    more than a third of such a number: a server with too much to do refuses at once, so that refusals soon
    outnumber answers; those that come now and then say nothing of how much is asked.
    """

    def __init__(self, ceiling: int, first: int = FIRST_LEVEL) -> None:
        self.ceiling = ceiling
        self.limit = float(min(first, ceiling))
        self.in_flight = 0
        self._begun = 0  # of those in flight
        self._doubling = True
        self._smoothed: float | None = None  # seconds to the first byte
        self._best = float("inf")
        self._round = FIRST_LEVEL  # first bytes and overloads until it ends
        self._count = self._overloads = 0  # in this round, as the next two
        self._most = 0  # in flight
        self._shrunk = False

    def start(self) -> None:
        self.in_flight += 1
        self._most = max(self._most, self.in_flight)

    def end(self, begun: bool) -> None:
        """A request has ended, one that had `begun` to be answered or not."""
        self.in_flight -= 1
        self._begun -= begun

    def first_byte(self, seconds: float) -> None:
        """An answer began, so many seconds after it was asked for."""
        self._begun += 1
        past = seconds if self._smoothed is None else self._smoothed
        self._smoothed = past + SMOOTHING * (seconds - past)
        self._best = min(self._best, self._smoothed)
        self._tick()

    def overloaded(self) -> None:
        self._overloads += 1
        if self._overloads > max(SINGLE, self._round / 3) and not self._shrunk:
            self.limit = max(1.0, self.limit * SHRINK)
            self._shrunk, self._doubling = True, False
        self._tick()

    def _tick(self) -> None:
        self._count += 1
        reached = self._most >= int(self.limit)
        all_begun = reached and self._begun == self.in_flight and not self._overloads
        if self._count < self._round and not all_begun:
            return
        holds = self._smoothed is not None and self._smoothed <= max(QUICK, SLOWER * self._best)
        if holds and not self._shrunk and reached:
            self.limit = min(float(self.ceiling), self.limit * 2 if self._doubling else self.limit + 1)
        self._round = max(int(self.limit), FIRST_LEVEL)
        self._count = self._overloads = 0
        self._shrunk, self._most = False, self.in_flight


class PooledEndpoint:
    """One address: its level, and whether it is set aside for a while."""

    def __init__(self, name: str, ceiling: int, first: int = FIRST_LEVEL) -> None:
        self.name = name
        self.level = ConcurrencyLimit(ceiling, first)
        self.answered = False  # well, ever
        self.refusal: str | None = None  # why it would refuse every request, as far as is known
        self.cooldown_until = float("-inf")
        self._cooldown_since = float("-inf")
        self._cooldowns = 0
        self._failures = 0  # in a row
        self._probing = False  # was set aside and did not answer since: gets one request at a time

    def use(self, now: float) -> float | None:
        """The share of its level that is in use; None when it takes no request now."""
        limit = 1 if self._probing else int(self.level.limit)
        if now < self.cooldown_until or self.level.in_flight >= limit:
            return None
        return self.level.in_flight / limit

    def began(self, seconds: float) -> None:
        """An answer began: it is there."""
        self._probing = False
        self.level.first_byte(seconds)

    def record_success(self) -> None:
        self.answered, self.refusal = True, None
        self._failures = self._cooldowns = 0

    def record_response(self) -> None:
        """It answered, if not what was hoped for."""
        self._failures, self._probing = 0, False

    def failed(self, started: float, now: float, refused: bool) -> None:
        """A request begun at `started` failed; `refused`: no connection could be had."""
        self._failures += 1
        if started >= self._cooldown_since and (refused or self._probing or self._failures >= IN_A_ROW):
            self.start_cooldown(now, min(MAX_COOLDOWN, 2.0 ** min(self._cooldowns, 6)))

    def start_cooldown(self, now: float, seconds: float = MAX_COOLDOWN) -> None:
        self.cooldown_until, self._cooldown_since = now + seconds, now
        self._cooldowns, self._probing, self._failures = self._cooldowns + 1, True, 0


@dataclass
class Slot:
    """The room of one request at a place."""

    place: PooledEndpoint
    begun: bool = False  # to be answered


class EndpointPool:
    """Hands out room for requests: at the place with the most of it, in the order of asking."""

    def __init__(self, places: Sequence[PooledEndpoint], most: int) -> None:
        self.places = places
        self._most = most  # in flight over all of them
        self._waiting: deque[asyncio.Future[Slot]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        return sum(place.level.in_flight for place in self.places)

    @property
    def level(self) -> int:
        return min(self._most, sum(int(place.level.limit) for place in self.places))

    async def take(self) -> Slot:
        """Wait for room; it must be given back."""
        loop = asyncio.get_running_loop()
        if not self._waiting and (slot := self._free(loop.time())):
            return slot
        ticket: asyncio.Future[Slot] = loop.create_future()
        self._waiting.append(ticket)
        self.wake()
        try:
            return await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled():  # it was handed out while we were being cancelled
                self.give(ticket.result())
            raise

    def began(self, slot: Slot, seconds: float) -> None:
        """A request began to be answered, so many seconds after it was sent."""
        slot.begun = True
        slot.place.began(seconds)
        self.wake()

    def give(self, slot: Slot) -> None:
        slot.place.level.end(slot.begun)
        self.wake()

    def wake(self) -> None:
        """Hand out what is free; to be called when more may be."""
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()  # of all that is decided here: an address is free by it, or waited for
        while self._waiting:
            if self._waiting[0].done():
                self._waiting.popleft()
            elif slot := self._free(now):
                self._waiting.popleft().set_result(slot)
            else:
                self._wake_later(loop, now)
                return

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _free(self, now: float) -> Slot | None:
        if self.in_flight >= self._most:
            return None
        uses = [(use, i) for i, place in enumerate(self.places) if (use := place.use(now)) is not None]
        if not uses:
            return None
        place = self.places[min(uses)[1]]
        place.level.start()
        return Slot(place)

    def _wake_later(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """When the first address that is set aside may be tried again."""
        until = [place.cooldown_until for place in self.places if place.cooldown_until > now]
        if self._timer:
            self._timer.cancel()
        self._timer = loop.call_at(min(until), self.wake) if until else None


class Tally:
    """What a client did so far and does now: live counts."""

    def __init__(self, places: EndpointPool) -> None:
        self._places = places
        self.requests = 0  # sent
        self.retries: Counter[str] = Counter()  # by what went wrong: "429", "5xx", "cut", ...

    @property
    def in_flight(self) -> int:
        return self._places.in_flight

    @property
    def level(self) -> int:
        """The limit of requests in flight, over all addresses."""
        return self._places.level
