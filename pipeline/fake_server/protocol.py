"""OpenAI's chat completions as the fake server speaks them: reading a request, sending an answer in its form.

`max_tokens` cuts the answer, and a request that goes on with the start of it gets the rest, so that the parts
can be joined. A token is a word with the blanks before it. Leaves out what is said (answers.py), HTTP.
"""

from __future__ import annotations

import argparse
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import log
from typing import Any

from pydantic_core import to_json

from pipeline.fake_server.answers import OPEN, Messages, Text, digest, draw, opening, opening_in

PIECE = 3  # tokens in one event of a stream
VOCABULARY = 50_000  # token ids
# The opening tag belongs to the first word: an answer has as many tokens in whichever way it is sent.
_TOKEN = re.compile(r"(?:<think>)?\s*\S+")
_ARGUMENTS = '{"sum": "1 + 1"}'
_CALL = {"id": "call_0", "type": "function", "function": {"name": "calculate", "arguments": _ARGUMENTS}}

Piece = tuple[dict[str, Any], dict[str, Any] | None]  # what is said, and its log-probabilities


class BadRequest(ValueError):
    """A request that servers answer with status 400; the message says why."""


@dataclass(frozen=True)
class Asked:
    """A request for a chat completion."""

    model: str
    messages: Messages
    prompt: str  # the contents of all messages
    said: str | None  # content of the last message when that is to be continued
    seed: Any
    limit: int | None  # tokens
    stream: bool
    include_usage: bool  # in a stream
    top_logprobs: int | None  # candidates a token; None: no log-probabilities
    as_ids: bool  # "token_id:17" instead of the token's text
    raw: bool = False  # a prompt is completed, and the answer is its text


@dataclass(frozen=True)
class Reply:
    """An answer in bytes: one JSON object, or events of which the last chunk holds the end."""

    chunks: list[bytes]
    stream: bool
    prompt_tokens: int
    completion_tokens: int


def read(body: bytes, refuse: Sequence[str] = ()) -> Asked:
    """The request in these bytes; raises BadRequest, also for one with a field to refuse."""
    try:
        fields = json.loads(body)
        model, messages = str(fields["model"]), [dict(message) for message in fields["messages"]]
        prompt = "\n".join(str(message["content"]) for message in messages)
        streaming = dict(fields.get("stream_options") or {})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadRequest("the request is not a chat completion") from None
    for name in refuse:
        if name in fields:
            raise BadRequest(f"Unsupported parameter: '{name}' is not supported with this model.")
    limit = fields.get("max_completion_tokens", fields.get("max_tokens"))
    if limit is not None and not (isinstance(limit, int) and limit > 0):
        raise BadRequest("max_tokens must be a whole number above 0")
    top = (fields.get("top_logprobs") or 0) if fields.get("logprobs") else None
    if top is not None and not (isinstance(top, int) and 0 <= top <= 20):
        raise BadRequest("top_logprobs must be a whole number from 0 to 20")
    return Asked(
        model=model,
        messages=messages,
        prompt=prompt,
        said=str(messages[-1]["content"]) if _goes_on(fields, messages) else None,
        seed=fields.get("seed", 0),
        limit=limit,
        stream=bool(fields.get("stream")),
        include_usage=bool(streaming.get("include_usage")),
        top_logprobs=top,
        as_ids=bool(fields.get("return_tokens_as_token_ids")),
    )


def _goes_on(fields: dict[str, Any], messages: Messages) -> bool:
    """Whether to continue the last message: said as to vLLM and SGLang, or as to DeepSeek and Mistral."""
    last = messages[-1] if messages else {}
    if fields.get("continue_final_message"):
        if fields.get("add_generation_prompt", True):
            raise BadRequest("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    elif not last.get("prefix"):
        return False
    if last.get("role") != "assistant":
        raise BadRequest("Only a message of the assistant can be continued.")
    return True


def reply(options: argparse.Namespace, asked: Asked, request: str, odd: str | None = None) -> Reply:
    """The answer to the request with this hash; `odd`: "empty" or "tools", an answer without words."""
    drawn, text = _text(options, asked)
    edges, finish_reason = _cut(text, asked)
    given, made = len(asked.prompt.split()), len(edges) - 1
    usage = (
        None
        if options.no_usage
        else {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
    )
    head = {"id": f"chatcmpl-{request[:24]}", "created": 0, "model": asked.model}
    if odd == "empty":
        nothing = {"content": None} if int(request[0], 16) % 2 else {}
        return Reply(_form(asked, head, [(nothing, None)], "stop", None), asked.stream, 0, 0)
    if odd == "tools":
        call = _CALL | ({"index": 0} if asked.stream else {})
        pieces: list[Piece] = [({"content": None, "tool_calls": [call]}, None)]
        finish_reason = "tool_calls"
    else:
        pieces = _pieces(options, asked, drawn, text, edges)
    return Reply(_form(asked, head, pieces, finish_reason, usage), asked.stream, given, made)


def _text(options: argparse.Namespace, asked: Asked) -> tuple[str, Text]:
    """The whole answer, and the hash that decides it; what is to be continued is no part of the question."""
    conversation = asked.messages if asked.said is None else asked.messages[:-1]
    drawn = digest(options.seed, asked.model, conversation, asked.seed)
    if options.words is None:
        return drawn, draw(options, drawn, conversation)
    begun = opening_in(asked.said or "") or opening(drawn)
    drawn = digest(options.seed, asked.model, conversation, begun)
    return drawn, draw(options, drawn, conversation, begun)


def _pieces(
    options: argparse.Namespace, asked: Asked, drawn: str, text: Text, edges: list[int]
) -> list[Piece]:
    """The answer as it is sent: in one piece, or a few tokens at a time."""
    top = None if options.no_logprobs else asked.top_logprobs
    size = PIECE if asked.stream else len(edges)
    pieces: list[Piece] = []
    for at in range(0, max(len(edges) - 1, 1), size):
        part = edges[at : at + size + 1]
        logprobs = None if top is None else _logprobs(drawn, text, part, top, asked.as_ids)
        way = "raw" if asked.raw else options.thoughts
        pieces.append((_said(way, text, part[0], part[-1]), logprobs))
    return pieces


def _cut(text: Text, asked: Asked) -> tuple[list[int], str]:
    """Where in the text the answer starts and where each token of it ends; and why it ends there."""
    start = _after_said(text, asked)
    edges = list(accumulate(map(len, _TOKEN.findall(text.whole, start)), initial=start))
    limits = (asked.limit, text.limit if asked.said is None else None)
    limit = min((n for n in limits if n is not None), default=len(edges))
    return edges[: limit + 1], "length" if limit + 1 < len(edges) else "stop"


def _after_said(text: Text, asked: Asked) -> int:
    """Where the answer goes on after the message to continue.

    That another seed began is continued with what this one says behind as many words: the answer to a request
    depends on nothing that was asked before.
    """
    said = asked.said or ""
    # Where the template has opened the thought, the text does not.
    for start in (said, said.removeprefix(OPEN)):
        if text.whole.startswith(start):
            return len(start)
    opened = len(OPEN) if text.whole.startswith(OPEN) else 0
    words = len(_TOKEN.findall(said.removeprefix(OPEN)))
    return opened + sum(map(len, _TOKEN.findall(text.whole, opened)[:words]))


def _said(way: str, text: Text, start: int, end: int) -> dict[str, str | None]:
    """The fields of a message that say this part of the text."""
    if way in ("inline", "opened", "raw"):
        return {"content": text.whole[start:end]}
    thought = text.whole[start : min(end, text.thought_end)]
    return {way: thought or None, "content": text.whole[max(start, text.answer_start) : end] or None}


def _logprobs(drawn: str, text: Text, edges: list[int], top: int, as_ids: bool) -> dict[str, Any]:
    parts = pairwise(edges)
    return {"content": [_token(digest(drawn, a), text.whole[a:b], top, as_ids) for a, b in parts]}


def _token(drawn: str, word: str, top: int, as_ids: bool) -> dict[str, Any]:
    """A token and its rivals. Chances fall geometrically with the rank; its own rank is drawn from them."""
    likeliest = 0.35 + 0.6 * int(drawn[:13], 16) / 16**13
    first, step = log(likeliest), log(1 - likeliest)
    rank = int(log(1 - int(drawn[13:26], 16) / 16**13) / step)
    number = zlib.crc32(word.encode())

    def candidate(at: int) -> dict[str, Any]:
        token = (number + at - rank) % VOCABULARY
        name = f"token_id:{token}" if as_ids else word if at == rank else f" w{token}"
        return {"token": name, "logprob": round(first + at * step, 5), "bytes": list(name.encode())}

    # vLLM's order: the token that was drawn, then the likeliest others, `top` in all.
    ranks = [rank, *(at for at in range(top) if at != rank)][:top]
    return candidate(rank) | {"bytes": list(word.encode()), "top_logprobs": [candidate(at) for at in ranks]}


def _form(
    asked: Asked, head: dict[str, Any], pieces: list[Piece], finish_reason: str, usage: dict[str, int] | None
) -> list[bytes]:
    if not asked.stream:
        [(said, logprobs)] = pieces
        choice = {"index": 0, "message": {"role": "assistant"} | said, "logprobs": logprobs}
        if asked.raw:
            choice = {"index": 0, "text": said["content"]}
        choices = [choice | {"finish_reason": finish_reason}]
        whole = head | {"object": "chat.completion", "choices": choices, "usage": usage}
        return [to_json(whole)]
    head = head | {"object": "chat.completion.chunk"}
    event = _text_event if asked.raw else _event
    chunks = [event(head, {"role": "assistant", "content": ""}, None, None)]
    for said, logprobs in pieces[:-1]:
        if any(said.values()) or logprobs:  # nothing to say of a tag alone
            chunks.append(event(head, said, logprobs, None))
    end = event(head, *pieces[-1], finish_reason)
    if asked.include_usage:
        end += _data(head | {"choices": [], "usage": usage})
    return [*chunks, end + b"data: [DONE]\n\n"]


def _event(
    head: dict[str, Any], said: dict[str, Any], logprobs: dict[str, Any] | None, finish_reason: str | None
) -> bytes:
    delta = {name: value for name, value in said.items() if value is not None}
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return _data(head | {"choices": [choice]})


def _text_event(
    head: dict[str, Any], said: dict[str, Any], logprobs: dict[str, Any] | None, finish_reason: str | None
) -> bytes:
    """The same of a prompt that is completed."""
    return _data(head | {"choices": [{"index": 0, "text": said["content"], "finish_reason": finish_reason}]})


def _data(event: dict[str, Any]) -> bytes:
    return b"data: " + to_json(event) + b"\n\n"
