"""The HTTP side of the fake server: paces answers, limits rates, plays errors and counts requests.

    python -m pipeline.fake_server --port 8100 --errors 0.1

The same (model, messages, seed) gets the same bytes each time. An error is chosen for each attempt of a
request, so a retry may succeed. GET /stats returns the counts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import Counter, deque

from aiohttp import web

from pipeline.fake_server.answers import choose, digest, uniform
from pipeline.fake_server.batches import Batches
from pipeline.fake_server.protocol import (
    BadRequest,
    ChatRequest,
    Completion,
    complete,
    encode,
    parse_prompt,
    parse_request,
)

ERRORS = ("429", "500", "502", "503")


class Server:
    """Answers requests as the options say. Subclasses play further faults."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.outcomes: Counter[str] = Counter()  # status -> requests
        self.attempts: Counter[str] = Counter()  # key of a request -> how often it was sent
        self.answered: Counter[str] = Counter()  # key of a request -> how often it was answered
        self.tokens: Counter[str] = Counter()  # "prompt" and "completion" of answered requests
        self.accepted: deque[float] = deque()  # when requests of the last minute came
        self.in_flight = 0
        self.most_in_flight = 0
        self.batches = Batches(self)

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/chat/completions", self.chat),
            web.post("/v1/completions", self.chat),
            web.get("/v1/models", self.models),
            web.get("/health", self.health),
            web.get("/stats", self.stats),
            *self.batches.routes(),
        ]

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def chat(self, http: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return self.unauthorized(http) or self._over_limit() or await self._chat(http)
        except BadRequest as e:
            return self.error(400, str(e))
        finally:
            self.in_flight -= 1

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        request = self.parse(http, await http.read())
        if request.model not in self.options.model:
            return self.error(404, f"The model `{request.model}` does not exist.")
        key = digest(self.options.seed, request.model, request.messages, request.seed)
        self.attempts[key] += 1
        await asyncio.sleep(self.options.latency)
        return await self.respond(http, key, request)

    def parse(self, http: web.Request, body: bytes) -> ChatRequest:
        return parse_request(body) if http.path.endswith("/chat/completions") else parse_prompt(body)

    async def respond(self, http: web.Request, key: str, request: ChatRequest) -> web.StreamResponse:
        shares = dict.fromkeys(ERRORS, self.options.errors / len(ERRORS))
        if status := choose(uniform(key, "error", self.attempts[key]), shares):
            return self.error(int(status), "an error of the fake server")
        return await self.send(http, key, request, complete(self.options, request, key))

    async def send(
        self, http: web.Request, key: str, request: ChatRequest, completion: Completion, outcome: str = "200"
    ) -> web.StreamResponse:
        """Sends the answer at the pace of --speed, and counts it just before its end is sent."""
        seconds = completion.completion_tokens / self.options.speed if self.options.speed else 0
        *chunks, end = self.encode(request, completion)
        if not seconds:
            chunks, end = [], b"".join([*chunks, end])
        response = web.StreamResponse(headers=headers(request))
        if request.stream:
            await response.prepare(http)
        clock = asyncio.get_running_loop().time
        start = clock()
        for number, chunk in enumerate(chunks, 1):
            await response.write(chunk)
            # Waits for a point in time, so that the delays of many chunks do not add up.
            await asyncio.sleep(start + number * seconds / (len(chunks) + 1) - clock())
        await asyncio.sleep(start + seconds - clock())
        self.count(key, completion, outcome)
        if not request.stream:
            return web.Response(body=end, headers=headers(request))
        await response.write(end)
        return response

    def encode(self, request: ChatRequest, completion: Completion) -> list[bytes]:
        return encode(request, completion)

    def count(self, key: str, completion: Completion, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self.answered[key] += 1
        self.tokens["prompt"] += completion.prompt_tokens
        self.tokens["completion"] += completion.completion_tokens

    def error(self, status: int, message: str) -> web.Response:
        self.outcomes[str(status)] += 1
        retry = {"Retry-After": str(self.options.retry_after)} if status in (429, 503, 529) else {}
        error = {"message": message, "type": "error", "param": None, "code": status}
        return web.json_response({"error": error}, status=status, headers=retry)

    def unauthorized(self, http: web.Request) -> web.Response | None:
        if self.options.key_env is None:
            return None
        given = http.headers.get("Authorization", "").removeprefix("Bearer ")
        if given == os.environ.get(self.options.key_env):
            return None
        # Hosted APIs repeat the ends of the key like this.
        return self.error(401, f"Incorrect API key provided: {given[:5]}{'*' * 8}{given[-4:]}.")

    def _over_limit(self) -> web.Response | None:
        if self.options.slots and self.in_flight > self.options.slots:
            return self.error(429, f"all {self.options.slots} slots are taken")
        if self.options.rpm:
            now = self.now()
            while self.accepted and self.accepted[0] <= now - 60:
                self.accepted.popleft()
            if len(self.accepted) >= self.options.rpm:
                return self.error(429, f"more than {self.options.rpm} requests a minute")
            self.accepted.append(now)
        return None

    async def models(self, http: web.Request) -> web.Response:
        served = [{"id": name, "object": "model"} for name in self.options.model]
        return self.unauthorized(http) or web.json_response({"object": "list", "data": served})

    async def health(self, http: web.Request) -> web.Response:
        return web.Response()

    async def stats(self, http: web.Request) -> web.Response:
        """Counts; a request that was answered more than once has been paid for more than once."""
        counts = {"requests": self.outcomes.total(), "outcomes": self.outcomes, "answered": self.answered}
        counts |= {"batches": len(self.batches.batches)}
        return web.json_response(counts | {"tokens": self.tokens, "most_in_flight": self.most_in_flight})

    async def wait(self, runner: web.AppRunner, site: web.TCPSite) -> None:
        """Keeps the server up until it is cancelled."""
        await asyncio.Event().wait()


def headers(request: ChatRequest) -> dict[str, str]:
    content_type = "text/event-stream; charset=utf-8" if request.stream else "application/json"
    return {"Content-Type": content_type}


async def _serve(server: Server) -> None:
    app = web.Application(client_max_size=256 * 2**20)
    app.add_routes(server.routes())
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", server.options.port)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    try:
        await server.wait(runner, site)
    finally:
        await runner.cleanup()


def run(server: Server) -> None:
    """Prints the server's base URL, then serves until it is interrupted."""
    try:
        asyncio.run(_serve(server))
    except (OSError, OverflowError) as e:
        sys.exit(f"port {server.options.port}: {getattr(e, 'strerror', e)}")
    except KeyboardInterrupt:
        sys.exit(130)
