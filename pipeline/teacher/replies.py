"""What an answer says, read piece by piece into a completion.

Every way of sending a thought gives the same completion, and a thought cut at the token limit is joined
with what continues it. A server's words are untrusted: each field that is used is checked. Leaves out the
log-probabilities (logprobs.py) and what an error means (client.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from pipeline.rows import Logprobs
from pipeline.teacher.events import Bodies
from pipeline.teacher.logprobs import CLOSE, Tokens
from pipeline.teacher.transport import ErrorStatus, RequestFailed, Retry

OPEN = "<think>"

_GIVEN_UP = {"abort", "error"}  # by a server that was stopped, or whose engine failed
_WORD = re.compile(r"[a-z_]{1,32}")  # what a finish reason is; it will be counted and shown


@dataclass(frozen=True)
class Completion:
    reasoning: str | None  # the thought; None when the server sent none that can be told apart
    response: str  # what follows the thought
    finish_reason: str  # the server's word; "unknown" when it gave none
    prompt_tokens: int | None  # over all requests that it took
    completion_tokens: int | None
    logprobs: Logprobs | None = None
    thinking: bool = False  # the thought was never ended


def can_continue(completion: Completion) -> bool:
    """Whether it was cut at the token limit in its thought, or in plain text without any."""
    if completion.finish_reason != "length":
        return False
    tagged = OPEN in completion.response or CLOSE in completion.response
    return completion.thinking or (completion.reasoning is None and bool(completion.response) and not tagged)


def said_so_far(cut: Completion) -> str:
    """The assistant's message to go on with; a thought is still open in it."""
    return f"{OPEN}\n{cut.reasoning}" if cut.thinking else cut.response


def split_thought(content: str, thought: str, *, cut: bool = False) -> tuple[str | None, str, bool]:
    """The thought, what follows it, and whether the thought was never ended, however the server sent them.

    A thought in a field of its own is taken as it is. Otherwise `<think>thought</think>answer`,
    `thought</think>answer` (the chat template opened it) and `<think>thought` (never closed) are split.
    Any other arrangement of tags is ambiguous: it stays whole in the response, for a filter to refuse.
    `cut`: the end of the text is kept as it is, because what continues it depends on it.
    """
    ended = str.lstrip if cut else str.strip
    if thought.strip():
        thinking = not content
    else:
        thought, content, thinking = _by_tags(content)
    thought = ended(thought) if thinking else thought.strip()
    return thought or None, ended(content), thinking and bool(thought)


def _by_tags(content: str) -> tuple[str, str, bool]:
    opened, closed = content.count(OPEN), content.count(CLOSE)
    if opened == 1 and closed <= 1 and content.lstrip().startswith(OPEN):
        thought, _, rest = content.lstrip().removeprefix(OPEN).partition(CLOSE)
        return thought, rest, not closed
    if opened == 0 and closed == 1:
        thought, _, rest = content.partition(CLOSE)
        return thought, rest, False
    return "", content, False


_Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]


class _Usage(BaseModel):
    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None


def _joined(so_far: Completion, content: str, thought: str) -> tuple[str, str]:
    """Content and thought of the whole, from those of the answer that goes on with `so_far`."""
    content = content.removeprefix(said_so_far(so_far))  # some servers repeat what they go on with
    if not so_far.thinking:
        return so_far.response + thought + content, ""
    if thought.strip() and CLOSE not in thought:
        return content, f"{so_far.reasoning}{thought}"
    return f"{OPEN}{so_far.reasoning}{thought}{content}", ""


class Reader:
    """Takes the bytes of a good answer as they come; `completion` says what they came to.

    Both raise Retry, ErrorStatus or RequestFailed for an answer that is none.
    """

    def __init__(self, logprobs: int | None = None) -> None:
        self._bodies = Bodies(self._take)
        self._content: list[str] = []
        self._thought: list[str] = []
        self._refusal: list[str] = []
        self._finish_reason: str | None = None
        self._usage = _Usage()
        self._answered = False
        self._tokens = None if logprobs is None else Tokens(logprobs)

    @property
    def events(self) -> int:
        return self._bodies.events

    @property
    def tokens(self) -> int | None:
        """Prompt and completion together, as the server counts; 0 before anything came, None: not said."""
        if not self._answered:
            return 0
        counts = (self._usage.prompt_tokens, self._usage.completion_tokens)
        return None if None in counts else sum(n or 0 for n in counts)

    def feed(self, chunk: bytes) -> None:
        self._bodies.feed(chunk)

    def completion(self, so_far: Completion | None = None) -> Completion:
        """The completion; joined with `so_far` where it goes on with that. May raise NoLogprobs too."""
        done = self._bodies.end()
        if not done and self._finish_reason is None:
            raise Retry("cut", "the answer was cut off: it ended without a finish_reason")
        if not self._answered:
            raise _wrong("there are no choices")
        ended = self._finish_reason or "unknown"
        ended = ended if _WORD.fullmatch(ended) else "other"
        if ended in _GIVEN_UP:
            raise Retry("cut", f"the answer was cut off: finish_reason {ended!r}")
        thought = "".join(self._thought)
        content = "".join(self._content) or "".join(self._refusal)
        prompt, completion = self._usage.prompt_tokens, self._usage.completion_tokens
        if so_far:
            content, thought = _joined(so_far, content, thought)
            prompt = _sum(so_far.prompt_tokens, prompt)
            completion = _sum(so_far.completion_tokens, completion)
        reasoning, response, thinking = split_thought(content, thought, cut=ended == "length")
        before = so_far.logprobs if so_far else None
        logprobs = None if self._tokens is None else self._tokens.row(reasoning, response, thinking, before)
        return Completion(reasoning, response, ended, prompt, completion, logprobs, thinking)

    def _take(self, body: Any) -> None:
        """A whole answer or a piece of one: they differ in "message" or "delta" alone."""
        if not isinstance(body, dict):
            raise _wrong("it is no object")
        if body.get("error") or body.get("object") == "error":
            raise ErrorStatus(_status_in(body), body)
        if (usage := body.get("usage")) is not None:
            self._usage = _valid_usage(usage)
        choices = body.get("choices")
        if not isinstance(choices, list):
            if choices is None:
                return
            raise _wrong("choices is no list")
        for choice in choices:
            if not isinstance(choice, dict):
                raise _wrong("a choice is no object")
            if not choice.get("index"):
                self._take_choice(choice)
                break

    def _take_choice(self, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason")
        message = choice.get("delta", choice.get("message"))
        if message is None and reason is not None:
            message = {}
        if not isinstance(message, dict):
            raise _wrong("a choice has no message")
        if reason is not None:
            if not isinstance(reason, str) or len(reason) > 64:
                raise _wrong("finish_reason is no word")
            self._finish_reason = reason
        self._answered = True
        if content := message.get("content"):
            self._take_content(content)
        if thought := message.get("reasoning_content") or message.get("reasoning"):
            self._thought.append(_text(thought))
        if refusal := message.get("refusal"):
            self._refusal.append(_text(refusal))
        if self._tokens is not None and (logprobs := choice.get("logprobs")):
            self._tokens.take(logprobs)

    def _take_content(self, content: Any) -> None:
        if not isinstance(content, list):
            self._content.append(_text(content))
            return
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text":
                self._content.append(_text(part.get("text")))
            elif kind == "thinking":  # Mistral's way: a list of texts
                thought = part.get("thinking")
                texts = thought if isinstance(thought, list) else [{"text": thought}]
                self._thought += [_text(t.get("text") if isinstance(t, dict) else None) for t in texts]
            else:
                raise _wrong("content has a part that is no text")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong("a text in its message is none")
    return value


def _valid_usage(usage: Any) -> _Usage:
    """The counts; none where they are no counts: the answer was paid for all the same."""
    try:
        return _Usage.model_validate(usage)
    except ValidationError:
        return _Usage()


def _wrong(what: str) -> RequestFailed:
    return RequestFailed(f"the answer has the wrong form: {what}")


def _status_in(body: dict[str, Any]) -> int:
    """The HTTP status that an error inside an answer stands for; 500 when it does not say."""
    error = body.get("error")
    for code in (error.get("code") if isinstance(error, dict) else None, body.get("code")):
        if re.fullmatch(r"[45][0-9][0-9]", str(code)):
            return int(str(code))
    return 500


def _sum(a: int | None, b: int | None) -> int | None:
    return a if b is None else b if a is None else a + b
