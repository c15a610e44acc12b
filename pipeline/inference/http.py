"""One HTTP request on aiohttp: bounded in size, abandoned when it makes no progress, kept to the named host.

The `openai` package's request path costs about 2.5 ms of processor time per request, this one a tenth.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urljoin, urlsplit

import aiohttp

from pipeline.inference.credentials import display_url, proxy_for
from pipeline.inference.http_errors import ErrorStatus, RequestFailed, Retry
from pipeline.inference.retry import read_retry_after

CHAT, COMPLETIONS, MODELS = "/chat/completions", "/completions", "/models"  # below the base URL
FILES, BATCHES = "/files", "/batches"  # and paths below these
_DEFINED = re.compile(r"/(chat/completions|completions|models|files|batches)(?![\w-])")
VERSION = "/version"  # beside the base URL, as vLLM has it
JSON = "application/json"
CONNECT_TIMEOUT = 30  # seconds
# vLLM closes idle connections after 5 s; closing them earlier avoids sending into one that is being closed.
KEEP_ALIVE = 3  # seconds
# Maximum bytes of a response. The event of a token is 200 to 500 bytes; some servers send reasoning twice.
OVERHEAD_BYTES = 2**20
BYTES_PER_TOKEN = 2**11
BYTES_PER_CANDIDATE = 2**9  # of a token's log-probabilities
MAX_ERROR = 2**16  # bytes of an error body that are read
MAX_HEADER = 2**18  # bytes of one header: gateways add policies and traces
# Only text is progress, or a server that drips anything else would hold a request forever. Before the first
# text, keep-alive bytes count as progress for STALLS_BEFORE_TEXT stall timeouts in total; after it, text has
# to arrive at one piece per SECONDS_PER_PIECE beyond those.
STALLS_BEFORE_TEXT = 10
SECONDS_PER_PIECE = 30
MAX_REDIRECTS = 3
_REPEATED = {301, 302, 307, 308}  # redirects after which a POST is repeated; 303 asks for a GET
_QUERY = re.compile(r"\?[^\s'\")]*")


class Sink(Protocol):
    """Takes the bytes of a response as they arrive."""

    @property
    def pieces(self) -> int:
        """Pieces of the response's text so far, without keep-alive bytes."""

    def feed(self, chunk: bytes) -> None: ...


@dataclass(frozen=True)
class ResponseLimits:
    """Limits on the time and the size of a response."""

    stall: float  # seconds without progress
    tokens: int = 0  # maximum asked for
    candidates: int = 0  # log-probabilities per token
    # The server was started here and is never dead while it is busy: vLLM queues requests and preempts even
    # responses that it has begun, so the progress of any is the progress of all.
    own_server: bool = False
    overhead: int = OVERHEAD_BYTES  # bytes allowed besides the tokens

    @property
    def bytes(self) -> int:
        return self.overhead + (BYTES_PER_TOKEN + BYTES_PER_CANDIDATE * self.candidates) * self.tokens

    def deadline(self, began: float, heard: float, pieces: int, heard_any: float = 0.0) -> float:
        """Returns when to give up.

        `heard`: the time of the last text, before any text of the last byte; `heard_any`: of the last text of
        any request.
        """
        if self.own_server:
            return max(began, heard_any) + self.stall
        longest = self.stall * STALLS_BEFORE_TEXT + SECONDS_PER_PIECE * min(pieces, self.tokens)
        return min(heard + self.stall, began + longest)


class Buffer:
    """Keeps a response as it is."""

    pieces = 0

    def __init__(self) -> None:
        self.body = bytearray()

    def feed(self, chunk: bytes) -> None:
        self.body += chunk


@dataclass
class _Reception:
    """A response as it arrives. Times are the loop's."""

    sink: Sink
    limits: ResponseLimits
    first_byte: Callable[[float], None]
    began: float
    heard: float  # the time of the last text; before any text, of the last byte
    pieces: int = 0
    size: int = 0  # bytes

    def feed(self, chunk: bytes, now: float) -> bool:
        """Returns whether the chunk brought text. Raises RequestFailed for a response that is too large."""
        if not self.size:
            self.first_byte(now - self.began)
        self.size += len(chunk)
        if self.size > (most := self.limits.bytes):
            asked = f"the response to a request of {self.limits.tokens} tokens"
            raise RequestFailed(f"{asked} is larger than {most / 2**20:.1f} MiB")
        self.sink.feed(chunk)
        before, self.pieces = self.pieces, self.sink.pieces
        if self.pieces > before or not before:
            self.heard = now
        return self.pieces > before


class Transport:
    """An async context manager that holds the connections to one base URL."""

    def __init__(self, base_url: str, key: str | None = None) -> None:
        parts = urlsplit(base_url)
        self._base = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._query = f"?{parts.query}" if parts.query else ""
        self._proxy = proxy_for(base_url)
        self._headers = {"Accept-Encoding": "identity"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._session: aiohttp.ClientSession | None = None
        self.heard_at = float("-inf")  # time of the last text of any response, on the loop's clock
        self.server: str | None = None  # the header "Server" of the last response

    async def __aenter__(self) -> Transport:
        self._session = aiohttp.ClientSession(
            # Unlimited connections: the endpoint pool limits the requests in flight.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE, ttl_dns_cache=60),
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_TIMEOUT),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            proxy=self._proxy,
            max_line_size=MAX_HEADER,
            max_field_size=MAX_HEADER,
        )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._session:
            await self._session.close()

    async def fetch(self, path: str, limits: ResponseLimits, body: bytes | None = None) -> bytes:
        """Returns the body of the response to a GET, or to a small POST. Raises what `send` raises."""
        buffer = Buffer()
        await self.send(body, buffer, limits, path=path)
        return bytes(buffer.body)

    async def send(
        self,
        body: bytes | Path | None,
        sink: Sink,
        limits: ResponseLimits,
        first_byte: Callable[[float], None] = lambda _: None,
        path: str = CHAT,
        content_type: str = JSON,
    ) -> None:
        """Sends a POST, or a GET where there is no body, and feeds its response to the sink.

        `body`: what is sent, or the file that holds it. `first_byte` is called with the seconds to the first
        byte of a good response. Raises ErrorStatus, Retry, RequestFailed for a response that is too large,
        and whatever `sink.feed` raises.
        """
        loop = asyncio.get_running_loop()
        received = _Reception(sink, limits, first_byte, began := loop.time(), began)
        timer: asyncio.TimerHandle

        def check_progress() -> None:
            """Ends the request at its deadline; where that has moved, checks again then."""
            nonlocal timer
            deadline = limits.deadline(began, received.heard, received.pieces, self.heard_at)
            if deadline > loop.time():
                timer = loop.call_at(deadline, check_progress)
            else:
                alarm.reschedule(deadline)

        timer = loop.call_later(limits.stall, check_progress)
        try:
            async with asyncio.timeout(None) as alarm:
                await self._exchange(path, body, content_type, received)
        except aiohttp.ClientError as e:
            raise _connection_error(e, started=received.size > 0) from None
        except TimeoutError:
            at = f"after {sink.pieces} pieces of it" if sink.pieces else "before any piece of it"
            reason = f"the response made no progress, {at} (stall_timeout = {limits.stall:g} s)"
            raise Retry("stalled", reason) from None
        except (ValueError, LookupError) as e:  # headers that aiohttp cannot parse
            raise Retry("garbage", f"the response breaks HTTP: {e}") from None
        finally:
            timer.cancel()

    async def _exchange(
        self, path: str, body: bytes | Path | None, content_type: str, received: _Reception
    ) -> None:
        """Sends the request, again where the same host redirects it, and reads the response."""
        assert self._session, "not opened"
        clock = asyncio.get_running_loop().time
        # Paths that OpenAI does not define are next to /v1, not below it.
        base = self._base if _DEFINED.match(path) else self._base.removesuffix("/v1")
        url = f"{base}{path}{self._query.replace('?', '&') if '?' in path else self._query}"
        method, followed = ("GET", _REPEATED | {303}) if body is None else ("POST", _REPEATED)
        for _ in range(1 + MAX_REDIRECTS):
            with ExitStack() as stack:
                data = stack.enter_context(body.open("rb")) if isinstance(body, Path) else body
                async with self._session.request(
                    method, url, data=data, headers={"Content-Type": content_type}, allow_redirects=False
                ) as response:
                    self.server = response.headers.get("Server")
                    if response.status in followed:
                        url = _redirect_target(url, response)
                        continue
                    if not 200 <= response.status < 300:
                        raise await _error_status(response)
                    async for chunk in response.content.iter_any():
                        if received.feed(chunk, now := clock()):
                            self.heard_at = now
                    return
        last = f"{MAX_REDIRECTS} redirects led to no response, the last to {display_url(url)}"
        raise _redirect_error(response.status, last)


def _redirect_target(url: str, response: aiohttp.ClientResponse) -> str:
    """Resolves a redirect. Raises ErrorStatus if it leaves the host or cannot be parsed."""
    location = response.headers.get("Location", "")
    try:
        target = urljoin(url, location)
        here, there = urlsplit(url), urlsplit(target)
        elsewhere = (there.scheme, there.netloc.lower()) != (here.scheme, here.netloc.lower())
        moved = display_url(target)
    except ValueError:
        location = ""
    if not location:
        raise _redirect_error(response.status, "redirect without a readable address")
    if elsewhere:
        reason = f"moved to {moved}, and requests are sent to no other address than base_url"
        raise _redirect_error(response.status, reason)
    return target


def _redirect_error(status: int, reason: str) -> ErrorStatus:
    return ErrorStatus(status, {"error": {"message": reason}})


async def _error_status(response: aiohttp.ClientResponse) -> ErrorStatus:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) >= MAX_ERROR:
            break
    headers = response.headers
    after = read_retry_after(headers.get("Retry-After"), headers.get("Retry-After-Ms"), time.time())
    return ErrorStatus(response.status, bytes(body[:MAX_ERROR]), after)


def _connection_error(error: aiohttp.ClientError, started: bool) -> Retry:
    message = _QUERY.sub("?...", str(error)) or type(error).__name__  # some messages hold the whole URL
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionError):
        message = os.strerror(error.os_error.errno or 0).lower()  # aiohttp's repeats the address
    reason = f"no response: {message}"
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Retry("connection", reason, counts=False, refused=True)
    if isinstance(error, aiohttp.ClientPayloadError) or (
        started and isinstance(error, aiohttp.ClientOSError)
    ):
        return Retry("dropped", f"the response was cut off: {message}")
    if isinstance(error, aiohttp.ClientConnectionError):
        return Retry("connection", reason, busy=True)
    return Retry("garbage", f"the response breaks HTTP: {message}")
