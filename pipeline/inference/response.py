"""Reads a response piece by piece into a completion.

Every way of sending reasoning gives the same completion, and reasoning truncated at the token limit is joined
with its continuation. Responses are untrusted: each field is checked before use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from filters.text.turn_marks import strip_end_marks
from pipeline.inference.dialects import (
    CLOSE,
    OPEN,
    REASONING_FIELDS,
    REASONING_PARTS,
    REASONING_TYPES,
    canonical_finish_reason,
    has_marks,
    split_by_marks,
    split_reasoning,
    text_of,
)
from pipeline.inference.http_errors import ErrorStatus, RequestFailed, Retry
from pipeline.inference.logprobs import TokenLogprobs
from pipeline.inference.sse import BodyParser, repair_unicode
from pipeline.rows import Logprobs

MAX_QUOTED = 1000  # characters of an unexpected body that are quoted


@dataclass(frozen=True)
class PromptLogprobs:
    """How a model reads the last n tokens of a prompt."""

    logprobs: Sequence[float]  # n, of the tokens themselves
    top_tokens: Sequence[int]  # n * k ids, by position, likeliest first; padded with -1
    top_logprobs: Sequence[float]  # n * k
    texts: Sequence[str | None]  # n, the tokens themselves as the server decodes them; None: not told


@dataclass(frozen=True)
class Completion:
    reasoning: str | None  # None if the server sent none that can be told apart
    response: str  # the text after the reasoning
    finish_reason: str  # "stop", "length", or the server's own word; "unknown" if it gave none
    prompt_tokens: int | None  # over all requests; None if not counted
    completion_tokens: int | None
    logprobs: Logprobs | None = None
    thinking: bool = False  # the reasoning was never closed
    unsent: frozenset[str] = frozenset()  # sampling fields left out of the request
    prompt_logprobs: PromptLogprobs | None = None  # only where they were requested


def can_continue(completion: Completion) -> bool:
    """Whether it was truncated inside its reasoning, or in plain text without any."""
    if completion.finish_reason != "length":
        return False
    if completion.thinking or completion.reasoning is not None or not completion.response:
        return completion.thinking
    split = split_by_marks(completion.response)
    return not has_marks(completion.response) if split is None else not split.closed


def partial_message(truncated: Completion) -> str:
    """Returns the assistant message to continue; unfinished reasoning stays open in it."""
    return f"{OPEN}\n{truncated.reasoning}" if truncated.thinking else truncated.response


def _joined(before: Completion, content: str, reasoning: str) -> tuple[str, str]:
    """Joins the content and reasoning of a continuation with the completion before it."""
    content = content.removeprefix(partial_message(before))  # some servers repeat the message
    if not before.thinking:
        return before.response + reasoning + content, ""
    # A parser that tells the two apart has found the closing mark, though only white space came before it
    if (reasoning.strip() or (reasoning and content.strip())) and CLOSE not in reasoning:
        return content, f"{before.reasoning}{reasoning}"
    return f"{OPEN}{before.reasoning}{reasoning}{content}", ""


@dataclass
class _Choice:
    """The text of one choice so far, in the pieces in which it arrived."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)  # of the reasoning; see REASONING_PARTS
    refusal: list[str] = field(default_factory=list)
    finish_reason: str | None = None  # canonical
    raw_finish_reason: str = ""
    streamed: bool = False

    @property
    def pieces(self) -> int:
        """How many non-empty pieces of text arrived."""
        return sum(map(len, (self.content, self.reasoning, self.parts, self.refusal)))

    def take(self, choice: dict[str, Any]) -> bool:
        """Returns whether it carries a message or an end; an annotation of a content filter has neither."""
        reason = choice.get("finish_reason")
        if reason is not None:
            if not isinstance(reason, str) or len(reason) > 64:
                raise _malformed("finish_reason is not a word")
            if canonical := canonical_finish_reason(reason):
                self.finish_reason, self.raw_finish_reason = canonical, reason
        message = choice.get("delta")
        self.streamed |= message is not None
        if message is None and not self.streamed:  # at the end of a stream it would repeat everything
            message = choice.get("message")
        if isinstance(text := choice.get("text"), str):  # from /v1/completions
            message = {"content": text}
        if message is None:
            return self.finish_reason is not None
        if not isinstance(message, dict):
            raise _malformed("a choice has no message")
        self._take_message(message)
        return True

    def _take_message(self, message: dict[str, Any]) -> None:
        content = message.get("content")
        for part in content if isinstance(content, list) else [content] if content else []:
            is_reasoning = isinstance(part, dict) and part.get("type") in REASONING_TYPES  # as Mistral does
            pieces = self.reasoning if is_reasoning else self.content
            pieces += filter(None, [_text("content", part)])
        for names, pieces in ((REASONING_FIELDS, self.reasoning), (REASONING_PARTS, self.parts)):
            texts = (_text(name, value) for name in names if _may_hold_text(value := message.get(name)))
            pieces += islice(filter(None, texts), 1)
        if refusal := message.get("refusal"):
            self.refusal.append(_text("refusal", refusal))

    def texts(self) -> tuple[str, str]:
        """Returns content and reasoning."""
        content = "".join(self.content) or "".join(self.refusal)
        reasoning = "".join(self.reasoning)
        parts = "" if reasoning.strip() else "".join(self.parts)
        return repair_unicode(content), repair_unicode(parts or reasoning)


class CompletionReader:
    """Takes the bytes of a good response as they arrive; `completion` returns the result.

    Both raise Retry, ErrorStatus or RequestFailed if the bytes are not a valid response.
    """

    def __init__(self, logprobs: bool = False) -> None:
        self._parser = BodyParser(self._take)
        self._choices: dict[int, _Choice] = {}
        self._usage: tuple[int | None, int | None] = (None, None)  # prompt and completion tokens
        self.began = False  # a response, with text or without, has begun and may have to be paid
        self._unexpected: Any = None  # the first body without choices
        self._logprobs = logprobs
        self._tokens: dict[int, TokenLogprobs] = {}

    @property
    def pieces(self) -> int:
        """Non-empty pieces of text so far, without keep-alive bytes."""
        return sum(choice.pieces for choice in self._choices.values())

    @property
    def tokens(self) -> int | None:
        """Prompt and completion tokens as the server counts; 0 before it began, None if not counted."""
        if not self.began:
            return 0
        return None if None in self._usage else sum(n or 0 for n in self._usage)

    @property
    def counted(self) -> tuple[int, int]:
        """Prompt and completion tokens, as far as the server has counted them.

        Where it has not, since the response broke off, each piece of text is a token at least.
        """
        prompt, completion = self._usage
        return prompt or 0, completion or self.pieces

    def feed(self, chunk: bytes) -> None:
        self._parser.feed(chunk)

    def so_far(self) -> tuple[str, str]:
        """Returns content and reasoning as they have arrived, marks included, for showing them early."""
        choice = self._choices.get(min(self._choices, default=0))
        return choice.texts() if choice else ("", "")

    def completion(self, before: Completion | None = None) -> Completion:
        """Returns the completion, joined with the one that it continues. May raise NoLogprobs too."""
        done = self._parser.end()
        first = min(self._choices, default=0)  # only one is requested
        choice = self._choices.get(first) or _Choice()
        if not done and choice.finish_reason is None:
            raise Retry(
                "dropped", "the response was cut off: it ended without a finish_reason" + self._quote()
            )
        if not self.began:
            raise _malformed("there are no choices" + self._quote())
        if choice.finish_reason == "aborted":
            raise Retry("dropped", f"the response was cut off: finish_reason {choice.raw_finish_reason!r}")
        return self._completion(choice, self._tokens.get(first), before)

    def _completion(
        self, choice: _Choice, tokens: TokenLogprobs | None, before: Completion | None
    ) -> Completion:
        finish_reason = choice.finish_reason or "unknown"
        content, raw_reasoning = choice.texts()
        has_text = bool(content or raw_reasoning)
        prompt, completion = (count or (None if has_text else count) for count in self._usage)
        if before:
            content, raw_reasoning = _joined(before, content, raw_reasoning)
            prompt = _sum(before.prompt_tokens, prompt)
            completion = _sum(before.completion_tokens, completion)
        truncated = finish_reason == "length"
        if not truncated:
            content = strip_end_marks(content)
        reasoning, response, thinking = split_reasoning(content, raw_reasoning, truncated=truncated)
        logprobs = None
        if self._logprobs:
            tokens = tokens or TokenLogprobs()
            logprobs = tokens.row(reasoning, response, thinking, before.logprobs if before else None)
        return Completion(reasoning, response, finish_reason, prompt, completion, logprobs, thinking)

    def _take(self, body: Any) -> None:
        """Takes a whole response or one event of a stream: they differ only in "message" or "delta"."""
        if not isinstance(body, dict):
            raise _malformed("it is not an object")
        if body.get("error") or body.get("object") == "error":
            raise ErrorStatus(_status_in(body), body)
        if isinstance(usage := body.get("usage"), dict):
            counts = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
            self._usage = counts if any(counts) or not any(self._usage) else self._usage
        choices = body.get("choices")
        if not choices:
            self._unexpected = self._unexpected or body
            return
        if not isinstance(choices, list):
            raise _malformed("choices is not a list")
        for position, choice in enumerate(choices):
            if not isinstance(choice, dict):
                raise _malformed("a choice is not an object")
            index = choice.get("index")
            self._take_choice(index if isinstance(index, int) else position, choice)

    def _take_choice(self, index: int, choice: dict[str, Any]) -> None:
        self.began |= self._choices.setdefault(index, _Choice()).take(choice)
        if self._logprobs and (logprobs := choice.get("logprobs")):
            self._tokens.setdefault(index, TokenLogprobs()).take(logprobs)

    def _quote(self) -> str:
        """Quotes what came in place of a response: some servers explain it in fields of their own."""
        if self.began or not self._unexpected:
            return ""
        return f"; the server said {json.dumps(self._unexpected, ensure_ascii=False)[:MAX_QUOTED]}"


def _may_hold_text(value: Any) -> bool:
    return bool(value) and not isinstance(value, bool | int | float)


def _text(name: str, value: Any) -> str:
    text = text_of(value)
    if text is None:
        raise _malformed(f"its {name} has a part that is not text")
    return text


def _count(value: Any) -> int | None:
    """Returns a token count; None if malformed, since the response was paid for all the same."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return None
    return int(value)


def _malformed(what: str) -> RequestFailed:
    return RequestFailed(f"the response has the wrong form: {what}")


def _status_in(body: dict[str, Any]) -> int:
    """Returns the HTTP status of an error inside a response; 500 if it names none."""
    error = body.get("error")
    for code in (error.get("code") if isinstance(error, dict) else None, body.get("code")):
        if re.fullmatch(r"[45][0-9][0-9]", str(code)):
            return int(str(code))
    return 500


def _sum(a: int | None, b: int | None) -> int | None:
    return None if a is None or b is None else a + b
