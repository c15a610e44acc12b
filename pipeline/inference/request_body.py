"""What a request says: the fields of a chat completion, and those of one that goes on with an answer.

A server that is asked to continue a message renders it with its chat template, and many templates close a
thought in it, or take it for the answer: the model would be asked for something else than it was saying.
vLLM shows what it renders (/tokenize). Where that is not the first prompt with what was said behind it, just
this is sent, as tokens, to /v1/completions. Leaves out how the parts are joined (replies.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pydantic_core import from_json, to_json

from pipeline.config.endpoints import Endpoint
from pipeline.errors import UserError
from pipeline.inference.dialects import OPEN
from pipeline.inference.http import ErrorStatus, RequestFailed, Retry
from pipeline.inference.logprobs import asked
from pipeline.inference.response import Completion, said_so_far
from pipeline.rows import Message, Sampling

Fetch = Callable[[str, bytes], Awaitable[bytes]]  # a path and a body -> the answer's body

_PROBE: list[dict[str, Any]] = [{"role": "user", "content": "Count to 3."}]
_CUT = (
    Completion("I count: 1, 2", "", "length", 1, 1, thinking=True),
    Completion(None, "I count: 1, 2", "length", 1, 1),
)
# Tokens of models that mark a thought otherwise than `said_so_far` does, when a parser has taken them off.
_OTHER_MARKS = (
    "<|channel|>",
    "<|channel>",
    "[THINK]",
    "<|START_THINKING|>",
    "<|inner_prefix|>",
    "<seed:think>",
    "◁think▷",
)
_OF_CHAT = ("messages", "continue_final_message", "add_generation_prompt", "chat_template_kwargs")


def chat_body(
    endpoint: Endpoint,
    model: str,
    messages: Sequence[Message],
    sampling: Sampling,
    seed: int,
    logprobs: int | None,
    so_far: Completion | None,
) -> dict[str, Any]:
    """The fields of a request, those included that a server may refuse and that can be left out."""
    said: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in messages]
    body: dict[str, Any] = endpoint.extra_body | {
        "model": model,
        "messages": said,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        endpoint.token_limit: sampling.max_tokens,
        "seed": seed % 2**31,  # some servers keep it in a signed 32-bit number
    }
    if endpoint.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if logprobs is not None:
        body |= asked(logprobs)
    if so_far:
        said.append({"role": "assistant", "content": said_so_far(so_far)})
        if endpoint.continue_by == "reasoning_content" and so_far.thinking:
            said[-1] |= {"content": "", "reasoning_content": so_far.reasoning}
        if endpoint.continue_by in ("prefix", "reasoning_content"):
            said[-1]["prefix"] = True
        else:
            body |= {"add_generation_prompt": False, "continue_final_message": True}
    return body


async def must_complete(fetch: Fetch, model: str, endpoint: Endpoint, logprobs: int | None) -> bool | None:
    """Whether cut answers have to be continued by /v1/completions; None where the server does not tell.

    UserError where they cannot be continued as they began.
    """
    if endpoint.continue_by in ("prefix", "reasoning_content"):
        return False
    try:
        return await _renders_otherwise(fetch, model, endpoint, logprobs)
    except (RequestFailed, ErrorStatus, Retry):
        return None


async def _renders_otherwise(
    fetch: Fetch, model: str, endpoint: Endpoint, logprobs: int | None
) -> bool | None:
    if endpoint.continue_by == "completions" and logprobs is not None:
        raise _cannot(model, "completions and generate.logprobs are set")
    options = _options(model, endpoint.extra_body)
    first = await _render(fetch, options, _PROBE)
    if first is None:
        return None
    for mark in _OTHER_MARKS:
        if len(await _tokens(fetch, {"model": model, "prompt": mark, "add_special_tokens": False})) == 1:
            raise _cannot(model, f"it marks thoughts with {mark}")
    text = await _text(fetch, model, first)
    for cut in _CUT:
        said = {"role": "assistant", "content": said_so_far(cut)}
        shown = await _render(fetch, options, [*_PROBE, said], continued=True)
        if shown is None or await _text(fetch, model, shown) != text + _rest(text, cut):
            if logprobs is not None:
                raise _cannot(model, "its chat template closes a cut thought, and generate.logprobs is set")
            return True
    return False


async def as_completion(fetch: Fetch, body: bytes, so_far: Completion) -> bytes:
    """The request to continue a message as one to /v1/completions: the first prompt and what was said."""
    chat = from_json(body)
    model = chat["model"]
    first = await _render(fetch, _options(model, chat), chat["messages"][:-1])
    if first is None:
        raise RequestFailed("its chat template does not render the question", refused=True)
    said = _rest(await _text(fetch, model, first), so_far)
    tokens = await _tokens(fetch, {"model": model, "prompt": said, "add_special_tokens": False})
    limit = chat.pop("max_completion_tokens", None) or chat.get("max_tokens")
    rest = {name: value for name, value in chat.items() if name not in _OF_CHAT}
    return to_json(rest | {"prompt": first + tokens, "max_tokens": limit})


def _options(model: str, body: dict[str, Any]) -> dict[str, Any]:
    return {"model": model, "chat_template_kwargs": body.get("chat_template_kwargs") or {}}


def _rest(prompt: str, so_far: Completion) -> str:
    """What stands behind the first prompt; some templates open the thought in that."""
    opened = prompt.rstrip().endswith(OPEN)
    return (so_far.reasoning or "") if so_far.thinking and opened else said_so_far(so_far)


async def _render(
    fetch: Fetch, options: dict[str, Any], messages: list[dict[str, Any]], continued: bool = False
) -> list[int] | None:
    """The tokens of a prompt; None where the server does not say or its template refuses the messages."""
    how = {"add_generation_prompt": not continued, "continue_final_message": continued}
    try:
        return await _tokens(fetch, options | how | {"messages": messages})
    except RequestFailed:
        return None


async def _tokens(fetch: Fetch, body: dict[str, Any]) -> list[int]:
    tokens = _field(await fetch("/tokenize", to_json(body)), "tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, int) for token in tokens):
        raise RequestFailed("the server's /tokenize gives no tokens", refused=True)
    return tokens


async def _text(fetch: Fetch, model: str, tokens: list[int]) -> str:
    text = _field(await fetch("/detokenize", to_json({"model": model, "tokens": tokens})), "prompt")
    if not isinstance(text, str):
        raise RequestFailed("the server's /detokenize gives no text", refused=True)
    return text


def _field(body: bytes, name: str) -> Any:
    try:
        answer = from_json(body)
    except ValueError:
        answer = None
    return answer.get(name) if isinstance(answer, dict) else None


def _cannot(model: str, why: str) -> UserError:
    return UserError(
        f"model {model!r}: cut answers cannot be continued: {why}; set generate.max_continuations = 0"
    )
