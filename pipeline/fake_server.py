"""A fake OpenAI-compatible server: rehearse a recipe without a model, and see how it bears faults.

    python -m pipeline.fake_server --port 8100 --faults '{"429": 0.2, "cut": 0.02}'

It plays a teacher that can do one-step arithmetic and is sometimes wrong: an answer is a function of
(model, messages, seed) alone, the same bytes each time. A fault is drawn for each try of a request, so a
retry may pass: 429 and 503 (with Retry-After), 500, "cut" (the connection closes in mid-answer), "garbage"
(status 200, a page of HTML), "hang" (no answer, ever). GET /stats counts it all. Leaves out streaming.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import operator
import os
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from aiohttp import web

FAULTS = ("429", "500", "503", "cut", "garbage", "hang")
WAYS = ("inline", "reasoning_content", "reasoning", "opened")
_PRODUCT = re.compile(r"\b(each|every|per|times|product|multipl\w+|rows? of|bags? of|boxes of)\b", re.I)
_DIFFERENCE = re.compile(r"\b(left|remain\w*|g[ia]ves?|los[te]s?|ate|eats?|sold|spent|fewer|minus)\b", re.I)
_SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "x": operator.mul, "\u00d7": operator.mul}


@dataclass
class Server:
    """The options, and the counts of what was asked and answered so far."""

    options: argparse.Namespace
    outcomes: Counter[str] = field(default_factory=Counter)  # status or fault -> requests
    tries: Counter[str] = field(default_factory=Counter)  # request -> how often it was asked
    answered: Counter[str] = field(default_factory=Counter)  # request -> how often it was answered
    in_flight: int = 0
    most_in_flight: int = 0

    async def chat(self, http: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._chat(http)
        finally:
            self.in_flight -= 1

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        if refused := self._unauthorized(http):
            return refused
        try:
            asked = json.loads(await http.read())
            model, messages, seed = str(asked["model"]), list(asked["messages"]), asked.get("seed", 0)
            prompt = "\n".join(str(m["content"]) for m in messages)
        except (ValueError, KeyError, TypeError):
            return self._error(400, "the request is not a chat completion")
        if model not in self.options.model:
            return self._error(404, f"The model `{model}` does not exist.")
        if self.options.too_long and self.options.too_long in prompt:
            return self._error(400, "This model's maximum context length is 16 tokens: the prompt is longer.")
        request = _hash(self.options.seed, model, messages, seed)
        self.tries[request] += 1
        await asyncio.sleep(self.options.latency)
        fault = self._fault(request)
        body = json.dumps(completion(self.options, request, model, messages)).encode()
        return await self._play(fault, http, body) if fault else self._answer(request, body)

    def _fault(self, request: str) -> str | None:
        attempt = self.tries[request]
        if self.options.faulty_tries is not None and attempt > self.options.faulty_tries:
            return None
        return _pick(_share(request, "fault", attempt), self.options.faults)

    async def _play(self, fault: str, http: web.Request, body: bytes) -> web.StreamResponse:
        if fault.isdigit():
            return self._error(int(fault), f"played fault {fault}", retry=fault != "500")
        self.outcomes[fault] += 1
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "garbage":
            return web.Response(text="<html>Bad gateway</html>", content_type="text/html")
        half = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await half.prepare(http)
        await half.write(body[: len(body) // 2])
        if http.transport:
            http.transport.close()
        return half

    def _answer(self, request: str, body: bytes) -> web.Response:
        self.outcomes["200"] += 1
        self.answered[request] += 1
        if self.options.log:  # before it is sent: from here on it is paid for
            print(request, file=self.options.log, flush=True)
        return web.Response(body=body, content_type="application/json")

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

    async def models(self, http: web.Request) -> web.Response:
        listed = [{"id": name, "object": "model"} for name in self.options.model]
        return self._unauthorized(http) or web.json_response({"object": "list", "data": listed})

    async def health(self, http: web.Request) -> web.Response:
        return web.Response()

    async def stats(self, http: web.Request) -> web.Response:
        """Counts; `answered` gives request -> times, and more than one is paid for twice."""
        counts = {"requests": self.outcomes.total(), "outcomes": self.outcomes, "answered": self.answered}
        return web.json_response(counts | {"most_in_flight": self.most_in_flight})


def completion(options: argparse.Namespace, request: str, model: str, messages: list[Any]) -> dict[str, Any]:
    """The whole answer to a request, drawn by its hash."""
    shares = {"right": options.right, "malformed": options.malformed, "truncated": options.truncated}
    kind = _pick(_share(request, "kind"), shares) or "wrong"
    question = str(messages[-1]["content"]) if messages else ""
    result = solve(question)
    if result is None or kind == "wrong":
        result = (result or 0) + 1 + int(_share(request, "slip") * 9)
    thought = f"I look for the numbers in the question. I work it out step by step and get {result}."
    answer: str | None = f"The answer is {result}."
    if kind == "malformed":  # it forgets to end the thought
        thought, answer = f"{thought}\n{answer}", None
    elif kind == "truncated":
        thought, answer = thought[: len(thought) // 2], None
    message = {"role": "assistant", **_spoken(options.thoughts, thought, answer)}
    finish_reason = "length" if kind == "truncated" else "stop"
    asked, said = len(json.dumps(messages).split()), len(f"{thought} {answer or ''}".split())
    head = {"id": f"chatcmpl-{request[:24]}", "object": "chat.completion", "created": 0, "model": model}
    return head | {
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
    }


def solve(question: str) -> int | None:
    """The result of "12 + 30" or of a word problem with two numbers; None when it sees none."""
    if figures := re.search(r"\d{1,15}(?:\s*[-+*x\u00d7]\s*\d{1,15})+", question):
        # From left to right: sums and products come out right, a mixture may not.
        first, *rest = re.findall(r"([-+*x\u00d7]?)\s*(\d+)", figures.group())
        return reduce(lambda result, step: _SIGNS[step[0]](result, int(step[1])), rest, int(first[1]))
    numbers = [int(n) for n in re.findall(r"\d{1,15}", question)]
    if len(numbers) < 2:
        return None
    sign = "*" if _PRODUCT.search(question) else "-" if _DIFFERENCE.search(question) else "+"
    return _SIGNS[sign](numbers[0], numbers[1])


def _spoken(way: str, thought: str, answer: str | None) -> dict[str, str | None]:
    if way in ("reasoning_content", "reasoning"):
        return {way: thought, "content": answer}
    end = "" if answer is None else f"\n</think>\n\n{answer}"
    return {"content": ("<think>\n" if way == "inline" else "") + thought + end}


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _share(*parts: Any) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return int(_hash(*parts)[:13], 16) / 16**13


def _pick(at: float, shares: dict[str, float]) -> str | None:
    """The name whose stretch of [0, 1) holds `at`; None beyond the last."""
    for name, share in shares.items():
        if at < share:
            return name
        at -= share
    return None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m pipeline.fake_server", description=(__doc__ or "")[:78])
    add = parser.add_argument
    add("--port", type=int, default=0, help="0: any free one; the address is the first line printed")
    add("--model", action="append", help="a model it knows; may be repeated (default: fake)")
    add("--seed", type=int, default=0, help="another seed gives other answers and faults")
    add("--latency", type=float, default=0, help="seconds before each answer")
    add("--thoughts", choices=WAYS, default="inline", help="how the thought is sent")
    add("--right", type=float, default=0.6, help="share of right answers; what no share covers is wrong")
    add("--malformed", type=float, default=0.1, help="share of answers whose thought is never closed")
    add("--truncated", type=float, default=0.05, help="share of answers cut at the token limit")
    add("--faults", type=json.loads, default={}, help=f"JSON: fault -> share of the tries, of {FAULTS}")
    add("--faulty-tries", type=int, help="a request's first tries only may meet a fault (default: any)")
    add("--retry-after", type=float, default=1, help="seconds, sent with 429 and 503")
    add("--too-long", help="a prompt with this text is refused as longer than the context")
    add("--key-env", help="ask for the key in this environment variable")
    add("--log", type=Path, help="append the hash of each answered request to this file")
    options = parser.parse_args()
    options.model = options.model or ["fake"]
    if not isinstance(options.faults, dict) or not set(options.faults) <= set(FAULTS):
        parser.error(f"--faults: a JSON object; known faults: {', '.join(FAULTS)}")
    for shares in (options.faults.values(), (options.right, options.malformed, options.truncated)):
        if not all(isinstance(s, int | float) and s >= 0 for s in shares) or math.fsum(shares) > 1:
            parser.error("shares are numbers from 0 to 1, together at most 1")
    if options.key_env and not os.environ.get(options.key_env):
        parser.error(f"the environment variable {options.key_env} is not set")
    options.log = options.log and options.log.open("a")
    return options


async def _serve(options: argparse.Namespace) -> None:
    server = Server(options)
    app = web.Application(client_max_size=64 * 2**20)
    app.add_routes([web.post("/v1/chat/completions", server.chat), web.get("/v1/models", server.models)])
    app.add_routes([web.get("/health", server.health), web.get("/stats", server.stats)])
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", options.port).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}/v1", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main() -> None:
    options = _options()
    try:
        asyncio.run(_serve(options))
    except OSError as e:
        sys.exit(f"port {options.port}: {e.strerror}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
