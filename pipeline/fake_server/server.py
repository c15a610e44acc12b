"""A fake OpenAI-compatible server: rehearse a recipe without a model, and see how it bears faults.

    python -m pipeline.fake_server --port 8100 --faults '{"429": 0.2, "cut": 0.02}'

It plays a teacher that can do one-step arithmetic and is sometimes wrong: an answer is a function of
(model, messages, seed) alone, the same bytes each time, whatever else was asked. A fault is drawn for each
try of a request, so a retry may pass. GET /stats counts it all. What it says is in
answers.py, in which form in protocol.py, the flags in options.py.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections import Counter, deque
from dataclasses import dataclass, field, replace

from aiohttp import web

from pipeline.fake_server import template
from pipeline.fake_server.answers import digest, pick, share
from pipeline.fake_server.options import STATUSES, WORDLESS, parse
from pipeline.fake_server.protocol import BadRequest, Reply, read, reply


@dataclass
class Server:
    """The options, and the counts of what was asked and answered so far."""

    options: argparse.Namespace
    outcomes: Counter[str] = field(default_factory=Counter)  # status or fault -> requests
    tries: Counter[str] = field(default_factory=Counter)  # request -> how often it was asked
    answered: Counter[str] = field(default_factory=Counter)  # request -> how often it was answered
    tokens: Counter[str] = field(default_factory=Counter)  # "prompt" and "completion", of what was answered
    accepted: deque[float] = field(default_factory=deque)  # when, of the last minute's requests
    in_flight: int = 0
    most_in_flight: int = 0
    begun_at_all: asyncio.Event = field(default_factory=asyncio.Event)  # set by the first request

    async def tokenize(self, http: web.Request) -> web.StreamResponse:
        try:
            tokens = template.tokenize(await http.read())
        except BadRequest as e:
            return self._error(400, str(e))
        return web.json_response({"tokens": tokens, "count": len(tokens)})

    async def detokenize(self, http: web.Request) -> web.StreamResponse:
        return web.json_response({"prompt": template.detokenize(await http.read())})

    async def chat(self, http: web.Request) -> web.StreamResponse:
        self.begun_at_all.set()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return self._unauthorized(http) or self._too_many() or await self._chat(http)
        except BadRequest as e:
            return self._error(400, str(e))
        finally:
            self.in_flight -= 1

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        body, raw = await http.read(), http.path.endswith("/v1/completions")
        asked = replace(read(template.as_chat(body) if raw else body, self.options.refuse), raw=raw)
        if self.options.template and asked.said is not None and not raw:
            asked = replace(asked, said=template.render([asked.messages[-1]], continued=True))
        if asked.model not in self.options.model:
            return self._error(404, f"The model `{asked.model}` does not exist.")
        if self.options.too_long and self.options.too_long in asked.prompt:
            raise BadRequest("This model's maximum context length is 16 tokens: the prompt is longer.")
        if self.options.no_continue and asked.said is not None:
            raise BadRequest("Continuing a message is not supported.")
        request = digest(self.options.seed, asked.model, asked.messages, asked.seed)
        self.tries[request] += 1
        await asyncio.sleep(self.options.latency)
        fault = self._fault(request)
        answer = reply(self.options, asked, request, fault if fault in WORDLESS else None)
        if fault and fault not in WORDLESS:
            return await self._play(fault, http, answer)
        return await self._answer(http, request, answer, fault or "200")

    def _fault(self, request: str) -> str | None:
        attempt = self.tries[request]
        if self.options.faulty_tries is not None and attempt > self.options.faulty_tries:
            return None
        return pick(share(request, "fault", attempt), self.options.faults)

    async def _play(self, fault: str, http: web.Request, answer: Reply) -> web.StreamResponse:
        if fault in STATUSES:
            return self._error(int(fault), f"played fault {fault}", retry=fault not in ("500", "502"))
        self.outcomes[fault] += 1
        if fault == "garbage":
            return web.Response(text="<html>Bad gateway</html>", content_type="text/html")
        half = web.StreamResponse(headers=_headers(answer))
        if fault != "hang":
            body = b"".join(answer.chunks)
            await half.prepare(http)
            await half.write(body[: len(body) // 2])
        if fault != "cut":
            await asyncio.sleep(self.options.hang)
        if http.transport:
            http.transport.close()
        return half

    async def _answer(
        self, http: web.Request, request: str, answer: Reply, outcome: str
    ) -> web.StreamResponse:
        seconds = answer.completion_tokens / self.options.speed if self.options.speed else 0
        if answer.stream:
            return await self._stream(http, request, answer, outcome, seconds)
        await asyncio.sleep(seconds)
        self._count(request, answer, outcome)
        return web.Response(body=answer.chunks[0], headers=_headers(answer))

    async def _stream(
        self, http: web.Request, request: str, answer: Reply, outcome: str, seconds: float
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=_headers(answer))
        await response.prepare(http)
        *chunks, end = answer.chunks if seconds else [b"".join(answer.chunks)]
        loop = asyncio.get_running_loop()
        start, step = loop.time(), seconds / (len(chunks) + 1)
        for number, chunk in enumerate(chunks, 1):
            await response.write(chunk)
            await asyncio.sleep(start + number * step - loop.time())  # small delays do not add up
        await asyncio.sleep(start + seconds - loop.time())
        self._count(request, answer, outcome)
        await response.write(end)
        return response

    def _count(self, request: str, answer: Reply, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self.answered[request] += 1
        self.tokens["prompt"] += answer.prompt_tokens
        self.tokens["completion"] += answer.completion_tokens
        if self.options.log:  # before the end is sent: from here on it is paid for
            print(request, file=self.options.log, flush=True)

    def _error(self, status: int, message: str, retry: bool = False) -> web.Response:
        self.outcomes[str(status)] += 1
        headers = {"Retry-After": str(self.options.retry_after)} if retry else {}
        error = {"message": message, "type": "error", "param": None, "code": status}
        return web.json_response({"error": error}, status=status, headers=headers)

    def _unauthorized(self, http: web.Request) -> web.Response | None:
        if self.options.key_env is None:
            return None
        given = http.headers.get("Authorization", "").removeprefix("Bearer ")
        if given == os.environ.get(self.options.key_env):
            return None
        # Hosted APIs repeat the ends of the key like this.
        return self._error(401, f"Incorrect API key provided: {given[:5]}{'*' * 8}{given[-4:]}.")

    def _too_many(self) -> web.Response | None:
        if self.options.slots and self.in_flight > self.options.slots:
            return self._error(429, f"all {self.options.slots} slots are taken", retry=True)
        if self.options.rpm:
            now = asyncio.get_running_loop().time()
            while self.accepted and self.accepted[0] <= now - 60:
                self.accepted.popleft()
            if len(self.accepted) >= self.options.rpm:
                return self._error(429, f"more than {self.options.rpm} requests a minute", retry=True)
            self.accepted.append(now)
        return None

    async def models(self, http: web.Request) -> web.Response:
        listed = [{"id": name, "object": "model"} for name in self.options.model]
        return self._unauthorized(http) or web.json_response({"object": "list", "data": listed})

    async def health(self, http: web.Request) -> web.Response:
        return web.Response()

    async def stats(self, http: web.Request) -> web.Response:
        """Counts; `answered` gives request -> times, and more than one is paid for twice."""
        counts = {"requests": self.outcomes.total(), "outcomes": self.outcomes, "answered": self.answered}
        return web.json_response(counts | {"tokens": self.tokens, "most_in_flight": self.most_in_flight})


def _headers(answer: Reply) -> dict[str, str]:
    if answer.stream:
        return {"Content-Type": "text/event-stream; charset=utf-8"}
    return {"Content-Type": "application/json", "Content-Length": str(len(answer.chunks[0]))}


async def _serve(options: argparse.Namespace) -> None:
    server = Server(options)
    app = web.Application(client_max_size=64 * 2**20)
    app.add_routes([web.post("/v1/chat/completions", server.chat), web.get("/v1/models", server.models)])
    if options.template:
        app.add_routes([web.post("/tokenize", server.tokenize), web.post("/detokenize", server.detokenize)])
        app.add_routes([web.post("/v1/completions", server.chat)])
    app.add_routes([web.get("/health", server.health), web.get("/stats", server.stats)])
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", options.port)
    await site.start()
    port = runner.addresses[0][1]
    print(f"http://127.0.0.1:{port}/v1", flush=True)
    try:
        if options.gone:
            await server.begun_at_all.wait()
            await _be_gone(runner, site, port, *options.gone)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def _be_gone(runner: web.AppRunner, site: web.TCPSite, port: int, begin: float, seconds: float) -> None:
    await asyncio.sleep(begin)
    await site.stop()
    assert runner.server
    await runner.server.shutdown(0.01)  # what is being answered is cut off
    await asyncio.sleep(seconds)
    await web.TCPSite(runner, "127.0.0.1", port).start()


def main() -> None:
    options = parse((__doc__ or "").partition("\n")[0])
    try:
        asyncio.run(_serve(options))
    except (OSError, OverflowError) as e:
        sys.exit(f"port {options.port}: {getattr(e, 'strerror', e)}")
    except KeyboardInterrupt:
        sys.exit(130)
