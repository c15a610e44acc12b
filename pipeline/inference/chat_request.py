"""Builds the request for a chat completion, also for one that continues a truncated response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_json

from pipeline.config.endpoints import Endpoint
from pipeline.inference.http import CHAT, ResponseLimits
from pipeline.inference.response import Completion, CompletionReader, partial_message
from pipeline.rows import Message, Sampling

# Fields that `extra_body` cannot set: chat_body() has other values for them, and one response is read of n
SET_HERE = frozenset({"model", "messages", "temperature", "top_p", "seed", "stream", "stream_options", "n"})
SET_HERE |= {"max_tokens", "max_completion_tokens"}


@dataclass(frozen=True)
class Request:
    """A request of the client, with all its optional fields."""

    fields: dict[str, Any]  # of the body
    limits: ResponseLimits
    reader: Callable[[], CompletionReader]  # makes a reader of the response, for each attempt
    before: Completion | None = None  # the truncated completion that it continues
    path: str = CHAT

    def body(self, unsent: frozenset[str]) -> bytes:
        return to_json({name: value for name, value in self.fields.items() if name not in unsent})


def chat_request(
    endpoint: Endpoint,
    model: str,
    messages: Sequence[Message],
    sampling: Sampling,
    seed: int,
    logprobs: bool,
    before: Completion | None,
) -> Request:
    """A request for a chat completion; see chat_body()."""
    fields = chat_body(endpoint, model, messages, sampling, seed, logprobs, before)
    limits = ResponseLimits(endpoint.stall_timeout, sampling.max_tokens, candidates=2 * logprobs)
    return Request(fields, limits, lambda: CompletionReader(logprobs), before)


def chat_body(
    endpoint: Endpoint,
    model: str,
    messages: Sequence[Message],
    sampling: Sampling,
    seed: int,
    logprobs: bool,
    before: Completion | None,
) -> dict[str, Any]:
    """Returns the fields of a request, including optional ones that a server may refuse.

    `before`: the truncated completion to continue.
    """
    sent: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in messages]
    body: dict[str, Any] = endpoint.extra_body | {
        "model": model,
        "messages": sent,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        endpoint.token_limit: sampling.max_tokens,
        "seed": seed % 2**31,  # some servers keep it in a signed 32-bit number
    }
    if endpoint.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if logprobs:
        body["logprobs"] = True
    if before:
        sent.append({"role": "assistant", "content": partial_message(before)})
        if endpoint.continue_by == "reasoning_content" and before.thinking:
            sent[-1] |= {"content": "", "reasoning_content": before.reasoning}
        if endpoint.continue_by in ("prefix", "reasoning_content"):
            sent[-1]["prefix"] = True
        else:
            body |= {"add_generation_prompt": False, "continue_final_message": True}
    return body
