"""The one client for every model: vLLM, hosted APIs, any server that speaks OpenAI's chat protocol.

Retries (429, 408, 409, 5xx, lost connections; Retry-After up to two minutes) and their waits are the
`openai` package's; the bounds beneath it are transport.py's. What comes back is checked field by field,
because a server's words are untrusted. Leaves out how many requests are in flight: the stage says.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from pipeline.config import Endpoint
from pipeline.errors import UserError
from pipeline.rows import Message, Sampling
from pipeline.transport import RequestFailed, http_client, words_of

if TYPE_CHECKING:
    import openai

MAX_WORDS = 300  # characters of a server's message that we repeat
CHECK_TIMEOUT = 30  # seconds to list the models
CHECK_RETRIES = 2

# No other request can succeed either: bad key, no money, not allowed, wrong address or model.
_WORD = re.compile(r"[a-z_]{1,32}")  # what a finish reason is; it will be counted and shown
_HOPELESS_STATUS = {401, 402, 403, 404}
_HOPELESS_CODE = {"model_not_found", "insufficient_quota", "invalid_api_key"}
_UNKNOWN_MODEL = re.compile(
    r"(?i)\b(unknown|invalid|no such|unsupported) model\b|\bmodel\b.{0,120}\bnot (found|exist|supported)\b"
)
_BEARER = re.compile(r"(?i)\bbearer\s+\S+")
_KEY_LIKE = re.compile(r"(?i)\b(sk|pk|hf|gsk|xai)[-_]\S{6}|\*\*\*")  # "sk-...", and the masked "abcd****wxyz"


@dataclass(frozen=True)
class Completion:
    reasoning: str | None  # the thought; None when the server sent none that can be told apart
    response: str  # what follows the thought
    finish_reason: str  # the server's word; "unknown" when it gave none
    prompt_tokens: int | None
    completion_tokens: int | None


class Client:
    """Asks one model of one server; an async context manager.

    `base_url` and `model` are given beside the endpoint because a server started here picks its own
    port and may know the model under another name. UserError for an address or key that cannot be used.
    """

    def __init__(self, endpoint: Endpoint, base_url: str, model: str) -> None:
        import openai

        self.url = _shown(base_url)
        self.model = model
        self._endpoint = endpoint
        self._answered = False
        self._key = _key(endpoint.api_key_env)
        limit = endpoint.request_timeout
        self._api = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=self._key or "none",  # servers without keys accept any; the package insists on one
            max_retries=endpoint.max_retries,
            timeout=openai.Timeout(limit, connect=min(limit, 30)),
            http_client=http_client(base_url),
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._api.close()

    async def check(self) -> None:
        """Ask the server for its models; UserError when it cannot be reached, refuses us or lacks ours."""
        import openai

        api = self._api.with_options(
            max_retries=min(CHECK_RETRIES, self._endpoint.max_retries),
            timeout=min(CHECK_TIMEOUT, self._endpoint.request_timeout),
        )
        try:
            answer = await api.models.with_raw_response.list()
            known = [m.id for m in _parse(_ModelList, answer.content).data]
        except openai.OpenAIError as e:
            raise UserError(self._refusal(self._reason(e))) from None
        except RequestFailed as e:
            raise UserError(self._refusal(f"its list of models cannot be read: {e}")) from None
        # Some servers list "models/NAME" and take "NAME".
        if not any(name == self.model or name.endswith("/" + self.model) for name in known):
            raise UserError(self._refusal(f"it serves {self._clean(_nearest(self.model, known))}"))

    async def complete(self, messages: Sequence[Message], sampling: Sampling, seed: int) -> Completion:
        """One completion. RequestFailed: this request has no answer; UserError: no request would have one."""
        import openai

        try:
            answer = await self._api.chat.completions.with_raw_response.create(
                model=self.model,
                messages=cast(Any, [m.model_dump() for m in messages]),
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=seed % 2**31,  # some servers keep it in a signed 32-bit number
            )
        except openai.OpenAIError as e:
            reason = self._reason(e)
            if not self._answered and _hopeless(e, reason):
                raise UserError(self._refusal(reason)) from None
            raise RequestFailed(reason) from None
        self._answered = (
            True  # from here on a refusal is about its own request: some gateways moderate with 403
        )
        return _completion(answer.content)

    def _refusal(self, reason: str) -> str:
        env = self._endpoint.api_key_env
        key = f"key from the environment variable {env}" if env else "no api_key_env is set"
        return f"{self.url}: cannot use model {self.model!r} ({key}): {reason}"

    def _reason(self, error: openai.OpenAIError) -> str:
        import openai

        if isinstance(error, openai.APIStatusError):
            words = words_of(error.body) or error.response.text
            return f"HTTP {error.status_code}: {self._clean(words) or 'no reason given'}"
        cause = error.__cause__ or error
        return f"no answer: {self._clean(str(cause)) or type(cause).__name__}"

    def _clean(self, text: str) -> str:
        """A server's words as one printable line without keys, at most MAX_WORDS characters."""
        text = "".join(c if c.isprintable() else " " for c in text[: 10 * MAX_WORDS])
        words = _BEARER.sub("[key]", text).split()
        line = " ".join("[key]" if self._like_key(word) else word for word in words)
        return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 3] + "..."

    def _like_key(self, word: str) -> bool:
        """Whether it holds our key, an end of it (servers quote those), or anything that looks like a key."""
        key = self._key
        ends = [] if key is None else [key] if len(key) < 12 else [key[:5], key[-5:]]
        return bool(_KEY_LIKE.search(word)) or any(end in word for end in ends)


def split_thought(content: str | None, reasoning: str | None) -> tuple[str | None, str]:
    """The thought and what follows it, however the server sent them.

    A thought in a field of its own is taken as it is. Otherwise `<think>thought</think>answer`,
    `thought</think>answer` (the chat template opened it) and `<think>thought` (never closed) are split.
    Any other arrangement of tags is ambiguous: it stays whole in the response, for a filter to refuse.
    """
    content = (content or "").strip()
    thought = (reasoning or "").strip()
    if not thought:
        opened, closed = content.count("<think>"), content.count("</think>")
        if content.startswith("<think>") and opened == 1 and closed <= 1:
            thought, _, content = content.removeprefix("<think>").partition("</think>")
        elif opened == 0 and closed == 1:
            thought, _, content = content.partition("</think>")
    return thought.strip() or None, content.strip()


class _Model(BaseModel):
    id: str


class _ModelList(BaseModel):
    data: list[_Model]


class _Answer(BaseModel):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(BaseModel):
    message: _Answer
    finish_reason: Annotated[str, Field(max_length=64)] | None = None


_Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]


class _Usage(BaseModel):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None


class _Reply(BaseModel):
    choices: Annotated[list[_Choice], Field(min_length=1)]
    usage: _Usage | None = None


_Body = TypeVar("_Body", bound=BaseModel)


def _parse(kind: type[_Body], body: bytes) -> _Body:
    try:
        return kind.model_validate_json(body)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(p) for p in first["loc"])
        raise RequestFailed(f"the answer has the wrong form: {where}: {first['msg']}") from None


def _completion(body: bytes) -> Completion:
    reply = _parse(_Reply, body)
    choice, usage = reply.choices[0], reply.usage or _Usage()
    thought = choice.message.reasoning_content or choice.message.reasoning
    reasoning, response = split_thought(choice.message.content, thought)
    ended = choice.finish_reason or "unknown"
    ended = ended if _WORD.fullmatch(ended) else "other"
    return Completion(reasoning, response, ended, usage.prompt_tokens, usage.completion_tokens)


def _hopeless(error: openai.OpenAIError, reason: str) -> bool:
    """Whether every other request would fail the same way."""
    status, code = getattr(error, "status_code", None), getattr(error, "code", None)
    unknown_model = status == 400 and _UNKNOWN_MODEL.search(reason)
    return status in _HOPELESS_STATUS or code in _HOPELESS_CODE or bool(unknown_model)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known[:10_000], n=5, cutoff=0.3) or known[:5]
    others = len(known) - len(near)
    return (", ".join(map(repr, near)) or "no model") + (f" and {others} more" if others else "")


def _shown(base_url: str) -> str:
    """The address without user, password and query, to be shown. UserError when it is none."""
    try:
        parts = urlsplit(base_url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        raise UserError(f"base_url {base_url!r} is not an address") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f'base_url {base_url!r} must be like "https://api.example.com/v1"')
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _key(env: str | None) -> str | None:
    if env is None:
        return None
    key = os.environ.get(env, "").strip()
    if not key:
        raise UserError(f"the environment variable {env} (api_key_env) is not set: it must hold the key")
    if not re.fullmatch(r"[!-~]+", key):
        raise UserError(f"the environment variable {env} (api_key_env) holds something that cannot be a key")
    return key
