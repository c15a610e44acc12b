"""Checks how a server continues a truncated response, and asks it in a way that is faithful.

A server that is asked to continue a message renders it with its chat template. Many templates close the
reasoning in it or treat it as the answer, so the model would be asked for something else. vLLM shows what it
renders (/tokenize). If that differs from the first prompt followed by the partial response, the request goes
to /v1/completions with exactly these tokens.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from pydantic_core import from_json, to_json

from pipeline.config.endpoints import Endpoint
from pipeline.errors import UserError
from pipeline.inference.dialects import OPEN
from pipeline.inference.http_errors import ErrorStatus, RequestFailed, Retry
from pipeline.inference.response import Completion, partial_message

Fetch = Callable[[str, bytes], Awaitable[bytes]]  # path and request body -> response body

_PROBE: list[dict[str, Any]] = [{"role": "user", "content": "Count to 3."}]
_TRUNCATED = (
    Completion("I count: 1, 2", "", "length", 1, 1, thinking=True),
    Completion(None, "I count: 1, 2", "length", 1, 1),
)
# Tokens of models whose marks differ from those of `partial_message`, once a parser has removed them.
_OTHER_MARKS = (
    "<|channel|>",
    "<|channel>",
    "[THINK]",
    "<|START_THINKING|>",
    "<|inner_prefix|>",
    "<seed:think>",
    "◁think▷",
)
_CHAT_FIELDS = ("messages", "continue_final_message", "add_generation_prompt", "chat_template_kwargs")


async def needs_completions(fetch: Fetch, model: str, endpoint: Endpoint, logprobs: bool) -> bool | None:
    """Whether continuations have to go to /v1/completions; None if the server does not tell.

    Raises UserError if truncated responses cannot be continued faithfully.
    """
    if endpoint.continue_by in ("prefix", "reasoning_content"):
        return False
    if endpoint.continue_by == "completions" and logprobs:
        raise _cannot_continue(model, "completions and generate.logprobs are set")
    try:
        return await _renders_differently(fetch, model, endpoint, logprobs)
    except (RequestFailed, ErrorStatus, Retry):
        return None


async def _renders_differently(fetch: Fetch, model: str, endpoint: Endpoint, logprobs: bool) -> bool | None:
    options = _template_options(model, endpoint.extra_body)
    prompt = await _render(fetch, options, _PROBE)
    if prompt is None:
        return None
    for mark in _OTHER_MARKS:
        if len(await _tokenize_text(fetch, model, mark)) == 1:
            raise _cannot_continue(model, f"it marks reasoning with {mark}")
    text = await _detokenize(fetch, model, prompt)
    for truncated in _TRUNCATED:
        message = {"role": "assistant", "content": partial_message(truncated)}
        tokens = await _render(fetch, options, [*_PROBE, message], continued=True)
        if tokens is None or await _detokenize(fetch, model, tokens) != text + _after_prompt(text, truncated):
            if logprobs:
                why = "its chat template closes truncated reasoning, and generate.logprobs is set"
                raise _cannot_continue(model, why)
            return True
    return False


async def as_completion(fetch: Fetch, body: bytes, before: Completion) -> bytes:
    """Turns a request that continues a message into one to /v1/completions, with the prompt as tokens."""
    chat = from_json(body)
    model = chat["model"]
    prompt = await _render(fetch, _template_options(model, chat), chat["messages"][:-1])
    if prompt is None:
        raise RequestFailed("its chat template does not render the question", refused=True)
    partial = _after_prompt(await _detokenize(fetch, model, prompt), before)
    tokens = await _tokenize_text(fetch, model, partial)
    limit = chat.pop("max_completion_tokens", None) or chat.get("max_tokens")
    rest = {name: value for name, value in chat.items() if name not in _CHAT_FIELDS}
    return to_json(rest | {"prompt": prompt + tokens, "max_tokens": limit})


def _template_options(model: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "chat_template_kwargs": body.get("chat_template_kwargs") or {}}


def _after_prompt(prompt: str, before: Completion) -> str:
    """Returns the partial response after the first prompt, in which some templates open the reasoning."""
    opened = prompt.rstrip().endswith(OPEN)
    return (before.reasoning or "") if before.thinking and opened else partial_message(before)


async def _render(
    fetch: Fetch, options: dict[str, Any], messages: list[dict[str, Any]], continued: bool = False
) -> list[int] | None:
    """Returns the tokens of a prompt; None if the server or its chat template refuses the messages."""
    how = {"add_generation_prompt": not continued, "continue_final_message": continued}
    try:
        return await _tokenize(fetch, options | how | {"messages": messages})
    except RequestFailed:
        return None


async def _tokenize_text(fetch: Fetch, model: str, text: str) -> list[int]:
    return await _tokenize(fetch, {"model": model, "prompt": text, "add_special_tokens": False})


async def _tokenize(fetch: Fetch, body: dict[str, Any]) -> list[int]:
    tokens = await _field(fetch, "/tokenize", body, "tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise RequestFailed("the server's /tokenize gives no tokens", refused=True)
    return tokens


async def _detokenize(fetch: Fetch, model: str, tokens: list[int]) -> str:
    text = await _field(fetch, "/detokenize", {"model": model, "tokens": tokens}, "prompt")
    if not isinstance(text, str):
        raise RequestFailed("the server's /detokenize gives no text", refused=True)
    return text


async def _field(fetch: Fetch, path: str, body: dict[str, Any], name: str) -> Any:
    """Returns a field of the response, None if it has none. Raises RequestFailed for refusals."""
    try:
        response = from_json(await fetch(path, to_json(body)))
    except ErrorStatus as e:
        if e.status >= 500 or e.status == 429:
            raise
        raise RequestFailed(f"{path}: {e}", refused=True) from None
    except ValueError:
        return None
    return response.get(name) if isinstance(response, dict) else None


def _cannot_continue(model: str, why: str) -> UserError:
    return UserError(
        f"model {model!r}: truncated responses cannot be continued: {why}; set generate.max_continuations = 0"
    )
