"""One POST over HTTP, read as it comes: bounded in size, given up when it makes no progress.

Plain aiohttp under a small interface: the `openai` package's request path costs about 2.5 ms of processor
time for each request, this one a tenth. Leaves out what an answer says (replies.py), how often and
where a request is tried (client.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

from pipeline.errors import UnitFailed
from pipeline.teacher.endpoints import proxy_for

CHAT, COMPLETIONS = "/chat/completions", "/completions"  # below the base URL; other paths are beside /v1
_QUERY = re.compile(r"\?[^\s'\")]*")
CONNECT_TIMEOUT = 30  # seconds
# vLLM closes idle connections after 5 s; letting go of them earlier avoids sending into one being closed.
KEEP_ALIVE = 3  # seconds
MAX_BODY = 64 * 2**20  # bytes; 100,000 tokens, an event of 300 bytes each, are 30 MB
MAX_ERROR = 2**16  # bytes of an error's body that we read
MAX_HEADER = 2**18  # bytes of one header: gateways add policies and traces
# Bytes alone do not keep an answer alive, or a server that drips them would hold a request for ever: an
# answer may take GRACE stall time-outs, and EVENT_GRACE seconds more for each token that came.
GRACE = 10
EVENT_GRACE = 30


class RequestFailed(UnitFailed):
    """This request cannot be answered, others may be. The message is one short line saying why."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class ErrorStatus(Exception):
    """The server refused: with an HTTP status, or with an error inside an answer that began well."""

    def __init__(self, status: int, body: object, retry_after: str | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.body, self.retry_after = status, body, retry_after


@dataclass(eq=False)
class Retry(Exception):
    """This try failed, another may pass."""

    word: str  # what the retries are counted under: "429", "5xx", "connection", "cut", "stalled", "garbage"
    reason: str  # one line, not cleaned yet
    counts: bool = True  # against max_retries; otherwise it waits as long as other requests are answered
    busy: bool = False  # the server has too much to do now: it refuses before it begins to answer
    refused: bool = False  # no connection could be had at all
    after: float | None = None  # seconds that the server asks us to wait


class Sink(Protocol):
    """What takes an answer's bytes as they come."""

    @property
    def events(self) -> int:
        """Pieces of the answer so far; what keeps the connection alive is none."""

    def feed(self, chunk: bytes) -> None: ...


@dataclass(frozen=True)
class Bounds:
    """When an answer is given up."""

    stall: float  # seconds without a byte
    tokens: int  # asked for, at most
    bytes: int = MAX_BODY
    queues: bool = False  # the server answers in turn: until the first token, others' tokens are progress

    def deadline(self, began: float, now: float, events: int) -> float:
        """When to give up, if nothing more comes; `now` is when the last byte came."""
        most = self.stall * GRACE + EVENT_GRACE * min(events, self.tokens)
        return min(now + self.stall, began + most)


class _Whole:
    """Keeps an answer as it is."""

    events = 0

    def __init__(self) -> None:
        self.body = bytearray()

    def feed(self, chunk: bytes) -> None:
        self.body += chunk


class Transport:
    """The connections to one address. Has to be opened inside the event loop, and closed."""

    def __init__(self, base_url: str, key: str | None) -> None:
        parts = urlsplit(base_url)
        self._base = parts._replace(path=parts.path.rstrip("/"))
        self._proxy = proxy_for(base_url)
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None
        self.heard_at = float("-inf")  # when a piece of any answer came last, on the loop's clock

    def open(self) -> None:
        self._session = aiohttp.ClientSession(
            # No bound on connections: how many requests are in flight is decided elsewhere.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            proxy=self._proxy,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
        )

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def fetch(self, path: str, body: bytes, bounds: Bounds) -> bytes:
        """The whole of a small answer. Raises as `post` does; RequestFailed where it is refused."""
        sink = _Whole()
        try:
            await self.post(body, sink, bounds, lambda _: None, path)
        except ErrorStatus as e:
            if e.status >= 500 or e.status == 429:
                raise
            raise RequestFailed(f"{path}: {e}", refused=True) from None
        return bytes(sink.body)

    async def post(
        self, body: bytes, sink: Sink, bounds: Bounds, first: Callable[[float], None], path: str = CHAT
    ) -> None:
        """Send one request and feed its answer to the sink.

        `first` is called with the seconds to the first byte of a good answer. Raises ErrorStatus, Retry, or
        RequestFailed for an answer that is too large; what `sink.feed` raises ends the request.
        """
        assert self._session, "not opened"
        clock = asyncio.get_running_loop().time
        began = clock()
        started = False

        def start(seconds: float) -> None:
            nonlocal started
            started = True
            first(seconds)

        try:
            async with asyncio.timeout(bounds.stall) as alarm:
                url = self._address(path)
                with self._queueing(alarm, sink, bounds, began):
                    async with self._session.post(url, data=body, max_redirects=3) as response:
                        if not 200 <= response.status < 300:
                            raise await _error(response)
                        await self._read(response, sink, bounds, alarm, began, start)
        except aiohttp.ClientError as e:
            raise _lost(e, started) from None
        except TimeoutError:
            raise Retry("stalled", _stalled(bounds, sink.events)) from None
        except (ValueError, LookupError) as e:  # of headers that aiohttp cannot read
            raise Retry("garbage", f"the answer breaks HTTP: {e}") from None

    def _address(self, path: str) -> str:
        below = self._base.path if path in (CHAT, COMPLETIONS) else self._base.path.removesuffix("/v1")
        return self._base._replace(path=below + path).geturl()

    @contextlib.contextmanager
    def _queueing(self, alarm: asyncio.Timeout, sink: Sink, bounds: Bounds, began: float) -> Iterator[None]:
        """While others' tokens come from a server that answers in turn, one that waits is not stalled."""
        loop = asyncio.get_running_loop()
        timers: list[asyncio.TimerHandle] = []

        def look() -> None:
            if not sink.events and not alarm.expired():
                alarm.reschedule(max(began, self.heard_at) + bounds.stall)
                timers[:] = [loop.call_later(bounds.stall / 2, look)]

        if bounds.queues:
            timers.append(loop.call_later(bounds.stall / 2, look))
        try:
            yield
        finally:
            for timer in timers:
                timer.cancel()

    async def _read(
        self,
        response: aiohttp.ClientResponse,
        sink: Sink,
        bounds: Bounds,
        alarm: asyncio.Timeout,
        began: float,
        start: Callable[[float], None],
    ) -> None:
        clock = asyncio.get_running_loop().time
        size, events = 0, 0
        async for chunk in response.content.iter_any():
            now = clock()
            if not size:
                start(now - began)
            size += len(chunk)
            if size > bounds.bytes:
                raise RequestFailed(f"the answer is larger than {bounds.bytes >> 20} MiB")
            sink.feed(chunk)
            if sink.events > events:
                events, self.heard_at = sink.events, now
            alarm.reschedule(bounds.deadline(began, now, events))


def _stalled(bounds: Bounds, events: int) -> str:
    part = f"after {events} pieces of it" if events else "before any piece of it"
    return f"the answer made no progress, {part} (stall_timeout = {bounds.stall:g} s)"


async def _error(response: aiohttp.ClientResponse) -> ErrorStatus:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) >= MAX_ERROR:
            break
    return ErrorStatus(response.status, bytes(body[:MAX_ERROR]), response.headers.get("Retry-After"))


def _lost(error: aiohttp.ClientError, started: bool) -> Retry:
    said = _QUERY.sub("?...", str(error)) or type(error).__name__  # some name the address whole
    reason = f"no answer: {said}"
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Retry("connection", reason, counts=False, refused=True)
    if isinstance(error, aiohttp.ClientPayloadError) or (
        started and isinstance(error, aiohttp.ClientOSError)
    ):
        return Retry("cut", f"the answer was cut off: {said}")
    if isinstance(error, aiohttp.ClientConnectionError):
        return Retry("connection", reason, busy=True)
    return Retry("garbage", f"the answer breaks HTTP: {said}")
