"""Small HTTP servers within a test, and a client for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from threading import Thread
from typing import Any

from aiohttp import web

from pipeline.config.endpoints import Endpoint
from pipeline.inference.client import Client
from pipeline.inference.response import Completion
from pipeline.rows import Message, Sampling

SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=64)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def client(
    *urls: str,
    model: str = "fake",
    concurrency: int = 64,
    answered: bool = False,
    own_server: bool = False,
    **settings: Any,
) -> Client:
    endpoint = Endpoint(model=model, base_url=urls, **settings)
    return Client(endpoint, urls, model, concurrency=concurrency, answered=answered, own_server=own_server)


async def complete(*urls: str, question: str = "What is 12 + 30?", **settings: Any) -> Completion:
    """Requests one completion with a new client."""
    asked = {name: settings.pop(name) for name in ("logprobs", "before") if name in settings}
    async with client(*urls, **settings) as teacher:
        return await teacher.complete([Message(role="user", content=question)], SAMPLING, 1, **asked)


@asynccontextmanager
async def serving(handler: Handler, port: int = 0) -> AsyncIterator[str]:
    """Starts a server that answers with `handler`; yields its base URL."""

    async def handle(http: web.Request) -> web.StreamResponse:
        return await handler(http)

    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@contextmanager
def served(handler: Handler) -> Iterator[str]:
    """serving() in a thread of its own, for code that blocks."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    server = serving(handler)

    def run(step: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(step, loop).result()

    try:
        yield run(server.__aenter__())
    finally:
        run(server.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Script:
    """Sends the answers in turn, then the last one for ever; `asked`: the bodies of the requests."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.in_flight = self.most_in_flight = 0

    async def __call__(self, http: web.Request) -> web.StreamResponse:
        if http.path.endswith("/models"):
            return web.json_response({"data": [{"id": "fake"}]})
        self.asked.append(await http.json())
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await answer(http) if callable(answer) else as_response(answer)
        finally:
            self.in_flight -= 1


def as_response(answer: Any) -> web.Response:
    """From a body, a status, (status, body) or (status, body, headers). All but text is sent as JSON."""
    status, body, headers = 200, answer, None
    if isinstance(answer, int):
        status, body = answer, {}
    elif isinstance(answer, tuple):
        status, body, headers = (*answer, None)[:3]
    data = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
    return web.Response(body=data, status=status, headers=headers, content_type="application/json")


def answered(*answers: Any, **settings: Any) -> Completion:
    """The client's completion for a server's answers."""

    async def ask() -> Completion:
        async with serving(Script(*answers)) as url:
            return await complete(url, **{"max_retries": 0, **settings})

    return asyncio.run(ask())


def chat(finish_reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": finish_reason}], "usage": None}


def events(*pieces: Any, end: str = "\n", done: bool = True) -> str:
    """A stream of events. A piece is a delta, a whole event, or text that is sent unchanged."""
    lines = []
    for piece in pieces:
        if not isinstance(piece, str):
            whole = "choices" in piece or "error" in piece
            piece = f"data: {json.dumps(piece if whole else {'choices': [{'index': 0, 'delta': piece}]})}\n\n"
        lines.append(piece.replace("\n", end))
    return "".join([*lines, f"data: [DONE]{end}{end}" * done])


def stop(finish_reason: str = "stop", **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


async def drip(http: web.Request, chunks: Sequence[bytes], seconds: float) -> web.StreamResponse:
    """Sends the chunks one by one, then the last one for ever."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(http)
    for i in range(10**6):
        await response.write(chunks[min(i, len(chunks) - 1)])
        await asyncio.sleep(seconds)
    return response
