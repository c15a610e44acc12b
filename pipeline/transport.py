"""The HTTP client under the `openai` package: a time limit for a whole answer, a bound on its size.

An answer that is cut off, late or no JSON is raised as httpx2's own errors, so openai's retries, with
their one budget of tries, cover it too.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic_core import from_json

if TYPE_CHECKING:
    import httpx2

MAX_BODY = 64 * 2**20  # bytes; 100,000 tokens of text are under 1 MB
# All that openai needs of an answer's headers. Others describe a body that is decoded by now, or could
# break what reads it (a charset of "base64").
_RETRY_HEADERS = {b"retry-after", b"retry-after-ms", b"x-should-retry"}


class RequestFailed(Exception):
    """This request cannot be answered, others may be. The message is one short line saying why."""


def http_client(base_url: str) -> httpx2.AsyncClient:
    """The transport under openai, with our bounds: what it raises, openai's one budget of tries repeats."""
    import httpx2

    class BoundedClient(httpx2.AsyncClient):
        async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            limit = request.extensions["timeout"]["read"]
            try:
                # httpx's own limit is for one read: a server that drips bytes would hold us for ever.
                async with asyncio.timeout(limit):
                    response = await super().send(request, **(options | {"stream": True}))
                    body = await _read(response)
            except TimeoutError:
                raise httpx2.ReadTimeout(f"not finished after {limit:g} s", request=request) from None
            if response.is_success and (flaw := _flaw(body)):
                raise httpx2.DecodingError(flaw, request=request)
            headers = [(k, v) for k, v in response.headers.raw if k.lower() in _RETRY_HEADERS]
            return httpx2.Response(response.status_code, headers=headers, content=body, request=request)

    return BoundedClient(
        # No bound on connections: the stage's concurrency is the only one. vLLM closes idle connections
        # after 5 s; letting go of them earlier avoids sending into one that is being closed.
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2),
        follow_redirects=True,
        # The environment's proxy is not for reaching this machine.
        trust_env=urlsplit(base_url).hostname not in ("127.0.0.1", "::1", "localhost"),
    )


async def _read(response: httpx2.Response) -> bytes:
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_BODY:
                raise RequestFailed(f"the answer is larger than {MAX_BODY >> 20} MiB")
    finally:
        await response.aclose()
    return bytes(body)


def _flaw(body: bytes) -> str | None:
    """Why a successful answer is worth asking for again: a gateway's error page, or an error in disguise."""
    try:
        data = from_json(body)
    except ValueError as e:
        return f"the answer is not JSON: {e}"
    if isinstance(data, dict) and data.get("error"):
        return f"an error inside a successful answer: {words_of(data) or 'no reason given'}"
    return None


def words_of(body: object) -> str | None:
    """The message in the body of an error, whose form differs from server to server."""
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and body.get(name):
            body = body[name]
    return body if isinstance(body, str) else None
