"""The fake server with faults that only tests need: `python -m tests.faulty_server`.

A fault is chosen for each attempt of a request, so a retry may succeed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from aiohttp import web

from pipeline.fake_server.answers import choose, uniform
from pipeline.fake_server.options import build_parser, check, check_shares
from pipeline.fake_server.protocol import BadRequest, ChatRequest, Completion, complete, parse_request
from pipeline.fake_server.server import Server, headers, run
from tests.faulty_batches import FAULTS as BATCH_FAULTS
from tests.faulty_batches import FaultyBatches

STATUSES = ("429", "500", "502", "503", "529")
WORDLESS = ("empty", "tools")
FAULTS = (*STATUSES, "dropped", "stall", "hang", "garbage", *WORDLESS)
_EXPLAINED = """The statuses are errors. "dropped" closes the connection within a response; "stall" sends half
a response and then nothing, "hang" nothing at all; "garbage" is HTML with status 200, "empty" an answer
without content and token counts, "tools" a tool call instead of an answer."""

_TURN = re.compile(r"<\|(system|user|assistant)\|>")
_NO_REASONING = "<think>\n\n</think>\n\n"
_FUNCTION = {"name": "calculate", "arguments": '{"sum": "1 + 1"}'}


# ------------------------------------------------------------------------------ options


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = build_parser("python -m tests.faulty_server")
    add = parser.add_argument
    add("--log", type=Path, metavar="FILE", help="append the key of each answered request")
    add("--too-long", metavar="TEXT", help="refuse a prompt with this text as longer than the context")
    add("--no-continue", action="store_true", help="refuse to continue an answer")
    add("--template", action="store_true", help="expose a chat template that closes reasoning, as vLLM does")
    add("--no-logprobs", action="store_true", help="ignore a request for log-probabilities")
    add("--no-usage", action="store_true", help="send no token counts")
    add("--refuse", action="append", default=[], metavar="FIELD", help="refuse this field; repeatable")
    add("--no-batches", action="store_true", help="have no files and batches")
    add = parser.add_argument_group(f"faults: {', '.join(FAULTS)}", _EXPLAINED).add_argument
    add("--faults", type=json.loads, default={}, metavar="JSON", help='shares of attempts: {"429": 0.2}')
    add(
        "--faulty-attempts",
        type=int,
        default=math.inf,
        metavar="N",
        help="only the first N attempts may fail",
    )
    add("--hang", type=float, default=math.inf, metavar="SECONDS", help='until "stall" and "hang" end')
    batches = ", ".join(filter(None, BATCH_FAULTS))
    add("--batch-faults", nargs="*", choices=BATCH_FAULTS, default=[], help=f"in this order: {batches}")
    add("--gone", type=_stretch, metavar="FROM,SECONDS", help="unreachable, FROM seconds after a request")
    options = parser.parse_args(arguments)
    check(parser, options)
    if not isinstance(options.faults, dict) or not set(options.faults) <= set(FAULTS):
        parser.error(f"--faults: a JSON object; known faults: {', '.join(FAULTS)}")
    check_shares(parser, list(options.faults.values()))
    return options


def _stretch(text: str) -> tuple[float, float]:
    try:
        begin, seconds = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers of seconds, as in 10,60") from None
    return begin, seconds


# ------------------------------------------------------------------------------ chat template


def render(messages: list[dict[str, Any]], continued: bool) -> str:
    """The prompt for these messages; closes the reasoning of the assistant, as many templates do.

    A continued message therefore asks for something other than what was said.
    """
    closed = {"assistant": _NO_REASONING}
    turns = [f"<|{m['role']}|>{closed.get(m['role'], '')}{m['content']}" for m in messages]
    return "".join(turns) + ("" if continued else "<|assistant|>")


def tokenize(body: bytes) -> list[int]:
    """The tokens of a prompt or of rendered messages: one per character."""
    try:
        given = json.loads(body)
        if "messages" in given:
            text = render(given["messages"], bool(given.get("continue_final_message")))
        else:
            text = given["prompt"]
        return [ord(c) for c in text]
    except (ValueError, KeyError, TypeError):
        raise BadRequest("the request has no text") from None


def detokenize(body: bytes) -> str:
    try:
        return "".join(map(chr, json.loads(body)["tokens"]))
    except (ValueError, KeyError, TypeError):
        raise BadRequest("the request has no tokens") from None


@dataclass(frozen=True)
class TextRequest(ChatRequest):
    """A request to complete a prompt, parsed as the chat that the prompt renders."""


def parse_text_request(body: bytes) -> TextRequest:
    given = json.loads(body)
    _, *parts = _TURN.split(detokenize(json.dumps({"tokens": given["prompt"]}).encode()))
    messages = [{"role": role, "content": text} for role, text in zip(parts[::2], parts[1::2], strict=True)]
    continued = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    request = parse_request(json.dumps(given | continued).encode())
    return TextRequest(**{field.name: getattr(request, field.name) for field in fields(request)})


def as_text(chunk: bytes) -> bytes:
    """Rewrites the choices of a chat completion, or of its events, as those of a text completion."""
    if not chunk.startswith(b"data: "):
        return json.dumps(_with_text(json.loads(chunk))).encode()
    events = [event.removeprefix(b"data: ") for event in chunk.split(b"\n\n") if event]
    texts = [e if e == b"[DONE]" else json.dumps(_with_text(json.loads(e))).encode() for e in events]
    return b"".join(b"data: " + text + b"\n\n" for text in texts)


def _with_text(completion: dict[str, Any]) -> dict[str, Any]:
    for choice in completion["choices"]:
        said = choice.pop("message", None) or choice.pop("delta")
        choice.pop("logprobs")
        choice["text"] = said.get("content", "")
    return completion


# ------------------------------------------------------------------------------ server


def wordless(fault: str, completion: Completion, key: str, stream: bool) -> Completion:
    """An answer without content: `fault` is "empty" or "tools"."""
    if fault == "tools":
        call = {"id": "call_0", "type": "function", "function": _FUNCTION} | ({"index": 0} if stream else {})
        pieces: list[Any] = [({"content": None, "tool_calls": [call]}, None)]
        return replace(completion, pieces=pieces, finish_reason="tool_calls")
    content = {"content": None} if int(key[0], 16) % 2 else {}
    return Completion(completion.id, [(content, None)], "stop", 0, 0, reports_usage=False)


class FaultyServer(Server):
    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__(options)
        self.first_request = asyncio.Event()
        self.log = options.log and options.log.open("a")
        self.batches = FaultyBatches(self, options.batch_faults)

    def routes(self) -> list[web.RouteDef]:
        routes = super().routes()
        if self.options.no_batches:
            routes = [r for r in routes if not r.path.startswith(("/v1/files", "/v1/batches"))]
        if not self.options.template:
            return routes
        return [
            *routes,
            web.post("/tokenize", self.tokenize),
            web.post("/detokenize", self.detokenize),
        ]

    async def tokenize(self, http: web.Request) -> web.StreamResponse:
        try:
            tokens = tokenize(await http.read())
        except BadRequest as e:
            return self.error(400, str(e))
        return web.json_response({"tokens": tokens, "count": len(tokens)})

    async def detokenize(self, http: web.Request) -> web.StreamResponse:
        return web.json_response({"prompt": detokenize(await http.read())})

    async def chat(self, http: web.Request) -> web.StreamResponse:
        self.first_request.set()
        return await super().chat(http)

    def parse(self, http: web.Request, body: bytes) -> ChatRequest:
        options = self.options
        completes_text = options.template and http.path.endswith("/v1/completions")
        request = parse_text_request(body) if completes_text else super().parse(http, body)
        for name in options.refuse:
            if name in json.loads(body):
                raise BadRequest(f"Unsupported parameter: '{name}' is not supported with this model.")
        if options.template and request.prefix is not None and not completes_text:
            request = replace(request, prefix=render([request.messages[-1]], continued=True))
        if options.too_long and options.too_long in request.prompt:
            raise BadRequest("This model's maximum context length is 16 tokens: the prompt is longer.")
        if options.no_continue and request.prefix is not None:
            raise BadRequest("Continuing a message is not supported.")
        return replace(request, logprobs=False) if options.no_logprobs else request

    async def respond(self, http: web.Request, key: str, request: ChatRequest) -> web.StreamResponse:
        attempt, fault = self.attempts[key], None
        if attempt <= self.options.faulty_attempts:
            fault = choose(uniform(key, "fault", attempt), self.options.faults)
        completion = complete(self.options, request, key)
        if self.options.no_usage:
            completion = replace(completion, reports_usage=False)
        if fault in WORDLESS:
            completion = wordless(fault, completion, key, request.stream)
        elif fault:
            return await self._play(fault, http, request, self.encode(request, completion))
        return await self.send(http, key, request, completion, fault or "200")

    async def _play(
        self, fault: str, http: web.Request, request: ChatRequest, chunks: list[bytes]
    ) -> web.StreamResponse:
        if fault in STATUSES:
            return self.error(int(fault), f"played fault {fault}")
        self.outcomes[fault] += 1
        if fault == "garbage":
            return web.Response(text="<html>Bad gateway</html>", content_type="text/html")
        body = b"".join(chunks)
        length = {} if request.stream else {"Content-Length": str(len(body))}
        half = web.StreamResponse(headers=headers(request) | length)
        if fault != "hang":
            await half.prepare(http)
            await half.write(body[: len(body) // 2])
        if fault != "dropped":
            await asyncio.sleep(self.options.hang)
        if http.transport:
            http.transport.close()
        return half

    def encode(self, request: ChatRequest, completion: Completion) -> list[bytes]:
        chunks = super().encode(request, completion)
        return [as_text(chunk) for chunk in chunks] if isinstance(request, TextRequest) else chunks

    def count(self, key: str, completion: Completion, outcome: str) -> None:
        super().count(key, completion, outcome)
        if self.log:  # before the end of the answer is sent: from here on it is billed
            print(key, file=self.log, flush=True)

    async def wait(self, runner: web.AppRunner, site: web.TCPSite) -> None:
        if self.options.gone:
            begin, seconds = self.options.gone
            port = runner.addresses[0][1]
            await self.first_request.wait()
            await asyncio.sleep(begin)
            await site.stop()
            assert runner.server
            await runner.server.shutdown(0.01)  # drops the responses in flight
            await asyncio.sleep(seconds)
            await web.TCPSite(runner, "127.0.0.1", port).start()
        await super().wait(runner, site)


if __name__ == "__main__":
    run(FaultyServer(parse()))
