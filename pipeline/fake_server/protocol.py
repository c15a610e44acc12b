"""OpenAI chat completions as the fake server speaks them: parses requests and encodes answers.

`max_tokens` truncates the answer, and a request that continues it gets the rest, so the parts can be joined.
A token is a word with the whitespace before it.
"""

from __future__ import annotations

import argparse
import json
import re
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import log
from typing import Any

from pydantic_core import to_json

from pipeline.fake_server.answers import OPEN, Answer, Messages, answer, digest, opening, opening_of

TOKENS_PER_EVENT = 3
# The opening tag belongs to the first word, so an answer has as many tokens in every reasoning style.
_TOKEN = re.compile(r"(?:<think>)?\s*\S+")

Piece = tuple[dict[str, Any], dict[str, Any] | None]  # fields of a message, and their log-probabilities


class BadRequest(ValueError):
    """A request that is answered with status 400; the message says why."""


@dataclass(frozen=True)
class ChatRequest:
    """A request for a chat completion."""

    model: str
    messages: Messages
    prefix: str | None  # content of the last message if it is to be continued
    seed: Any
    max_tokens: int | None
    stream: bool
    include_usage: bool  # at the end of a stream
    logprobs: bool  # of the tokens of the answer, or of those of `scored`
    scored: tuple[int, ...] = ()  # tokens of a prompt that is read in place of an answer
    candidates: int = 0  # of each of these tokens
    thinking: bool = True  # False: switched off by a variable of the chat template, or by /no_think

    @property
    def prompt(self) -> str:
        return "\n".join(str(message["content"]) for message in self.messages)


@dataclass(frozen=True)
class Completion:
    """An answer before it is encoded."""

    id: str
    pieces: list[Piece]  # one, or several for a stream
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reports_usage: bool = True


def parse_request(body: bytes) -> ChatRequest:
    """Parses the body of a request. Raises BadRequest."""
    try:
        fields = json.loads(body)
        model, messages = str(fields["model"]), [dict(message) for message in fields["messages"]]
        contents = [str(message["content"]) for message in messages]
        stream_options = dict(fields.get("stream_options") or {})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadRequest("the request is not a chat completion") from None
    limit = fields.get("max_completion_tokens", fields.get("max_tokens"))
    if limit is not None and not (isinstance(limit, int) and limit > 0):
        raise BadRequest("max_tokens must be a whole number above 0")
    return ChatRequest(
        model=model,
        messages=messages,
        prefix=contents[-1] if _continues(fields, messages) else None,
        seed=fields.get("seed", 0),
        max_tokens=limit,
        stream=bool(fields.get("stream")),
        include_usage=bool(stream_options.get("include_usage")),
        logprobs=bool(fields.get("logprobs")),
        thinking=not any("/no_think" in content for content in contents) and _template_thinks(fields),
    )


def parse_prompt(body: bytes) -> ChatRequest:
    """Parses a request to /v1/completions for the log-probabilities of a prompt's tokens."""
    try:
        fields = json.loads(body)
        model, prompt, k = str(fields["model"]), tuple(map(int, fields["prompt"])), fields["prompt_logprobs"]
    except (ValueError, KeyError, TypeError):
        raise BadRequest("a prompt of tokens and prompt_logprobs are needed") from None
    if not (isinstance(k, int) and 0 <= k <= 20) or not prompt:
        raise BadRequest("prompt_logprobs must be a whole number from 0 to 20")
    text = [{"role": "user", "content": " ".join(map(str, prompt))}]
    return ChatRequest(model, text, None, 0, 1, False, False, True, scored=prompt, candidates=k)


def _template_thinks(fields: dict[str, Any]) -> bool:
    variables = fields.get("chat_template_kwargs") or {}
    return not isinstance(variables, dict) or False not in (
        variables.get("enable_thinking"),
        variables.get("thinking"),
    )


def _continues(fields: dict[str, Any], messages: Messages) -> bool:
    """Whether to continue the last message, requested as from vLLM and SGLang, or DeepSeek and Mistral."""
    last = messages[-1] if messages else {}
    if fields.get("continue_final_message"):
        if fields.get("add_generation_prompt", True):
            raise BadRequest("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    elif not last.get("prefix"):
        return False
    if last.get("role") != "assistant":
        raise BadRequest("Only a message of the assistant can be continued.")
    return True


def complete(options: argparse.Namespace, request: ChatRequest, key: str) -> Completion:
    """Answers the request; `key` is its hash."""
    if request.scored:
        return Completion(f"cmpl-{key[:24]}", [({"content": " "}, None)], "length", len(request.scored), 1)
    # The message to continue is not part of the question: a continuation needs the same answer.
    conversation = request.messages if request.prefix is None else request.messages[:-1]
    start = None
    answer_key = digest(options.seed, request.model, conversation, request.seed)
    if options.words is not None:
        start = opening_of(request.prefix or "") or opening(answer_key)
        answer_key = digest(options.seed, request.model, conversation, start)
    whole = answer(options, answer_key, conversation, start, request.thinking)
    edges, finish_reason = _token_edges(whole, request)
    size = TOKENS_PER_EVENT if request.stream else len(edges)
    pieces: list[Piece] = []
    for at in range(0, max(len(edges) - 1, 1), size):
        part = edges[at : at + size + 1]
        fields = _message_fields(options.reasoning, whole, part[0], part[-1])
        pieces.append((fields, _logprobs(answer_key, whole.text, part, request)))
    prompt_tokens = len(request.prompt.split())
    return Completion(f"chatcmpl-{key[:24]}", pieces, finish_reason, prompt_tokens, len(edges) - 1)


def _token_edges(whole: Answer, request: ChatRequest) -> tuple[list[int], str]:
    """Returns where the tokens to send start and end in the text, and the finish reason."""
    start = _continuation_start(whole, request.prefix or "")
    edges = list(accumulate(map(len, _TOKEN.findall(whole.text, start)), initial=start))
    limits = (request.max_tokens, whole.stops_after if request.prefix is None else None)
    limit = min((n for n in limits if n is not None), default=len(edges))
    return edges[: limit + 1], "length" if limit + 1 < len(edges) else "stop"


def _continuation_start(whole: Answer, prefix: str) -> int:
    """Returns where the text continues after the prefix.

    A prefix that another seed began is continued after as many words of this text: the answer to a request
    must not depend on earlier requests.
    """
    # The chat template may have opened the reasoning instead of the text.
    for start in (prefix, prefix.removeprefix(OPEN)):
        if whole.text.startswith(start):
            return len(start)
    opened = len(OPEN) if whole.text.startswith(OPEN) else 0
    words = len(_TOKEN.findall(prefix.removeprefix(OPEN)))
    return opened + sum(map(len, _TOKEN.findall(whole.text, opened)[:words]))


def _message_fields(style: str, whole: Answer, start: int, end: int) -> dict[str, str | None]:
    if style in ("inline", "opened"):
        return {"content": whole.text[start:end]}
    reasoning = whole.text[start : min(end, whole.reasoning_end)]
    return {style: reasoning or None, "content": whole.text[max(start, whole.response_start) : end] or None}


def _logprobs(key: str, text: str, edges: list[int], request: ChatRequest) -> dict[str, Any] | None:
    if not request.logprobs:
        return None
    return {"content": [_token(digest(key, a), text[a:b]) for a, b in pairwise(edges)]}


def _token(key: str, word: str) -> dict[str, Any]:
    rank, first, step = _sampled(key)
    logprob = round(first + rank * step, 5)
    return {"token": word, "logprob": logprob, "bytes": list(word.encode()), "top_logprobs": []}


def _sampled(key: str) -> tuple[int, float, float]:
    """The rank of a token, the log-probability of the likeliest one, and its fall with each rank."""
    likeliest = 0.35 + 0.6 * int(key[:13], 16) / 16**13
    first, step = log(likeliest), log(1 - likeliest)
    return int(log(1 - int(key[13:26], 16) / 16**13) / step), first, step


def _prompt_logprobs(request: ChatRequest) -> list[dict[str, Any] | None]:
    """What vLLM sends for a prompt: nothing for the first token, then the likeliest and the token itself."""
    found: list[dict[str, Any] | None] = [None]
    vocabulary = max(*request.scored, 255) + 1
    for at, token in enumerate(request.scored[1:], 1):
        rank, first, step = _sampled(digest(request.model, at, request.scored[at - 1], token))
        ranks = {*range(request.candidates), rank}
        found.append(
            {
                str((token + other - rank) % vocabulary): {
                    "logprob": first + other * step,
                    "rank": other + 1,
                    "decoded_token": None,
                }
                for other in sorted(ranks)
            }
        )
    return found


def encode(request: ChatRequest, completion: Completion) -> list[bytes]:
    """Encodes the answer as one JSON object, or as server-sent events whose last chunk ends the stream."""
    head = {"id": completion.id, "created": 0, "model": request.model}
    given, made = completion.prompt_tokens, completion.completion_tokens
    usage = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
    reported = usage if completion.reports_usage else None
    if not request.stream:
        [(fields, logprobs)] = completion.pieces
        choice = {"index": 0, "message": {"role": "assistant"} | fields, "logprobs": logprobs}
        choices = [choice | {"finish_reason": completion.finish_reason}]
        if request.scored and request.logprobs:
            choices[0]["prompt_logprobs"] = _prompt_logprobs(request)
        return [to_json(head | {"object": "chat.completion", "choices": choices, "usage": reported})]
    head["object"] = "chat.completion.chunk"

    def event(fields: dict[str, Any], logprobs: Any, finish_reason: str | None = None) -> bytes:
        delta = {name: value for name, value in fields.items() if value is not None}
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        return _event(head | {"choices": [choice]})

    *pieces, last = completion.pieces
    chunks = [event({"role": "assistant", "content": ""}, None)]
    chunks += [event(*piece) for piece in pieces if any(piece[0].values()) or piece[1]]
    end = event(*last, completion.finish_reason)
    if request.include_usage:
        end += _event(head | {"choices": [], "usage": reported})
    return [*chunks, end + b"data: [DONE]\n\n"]


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + to_json(fields) + b"\n\n"
