"""What an answer says, read piece by piece into a completion.

Every way of sending a thought gives the same completion, and a thought cut at the token limit is joined
with what continues it. A server's words are untrusted: each field that is used is checked. Leaves out the
log-probabilities (logprobs.py) and what an error means (client.py).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from filters.text.turn_marks import without_end_marks
from pipeline.inference.dialects import (
    CLOSE,
    OPEN,
    THOUGHT_FIELDS,
    THOUGHT_KINDS,
    THOUGHT_PARTS,
    end_of,
    has_marks,
    split_by_marks,
    text_of,
)
from pipeline.inference.http import ErrorStatus, RequestFailed, Retry
from pipeline.inference.logprobs import Tokens
from pipeline.inference.sse import Bodies, mended
from pipeline.rows import Logprobs

MOST_QUOTED = 1000  # characters of an answer that is none


@dataclass(frozen=True)
class Completion:
    reasoning: str | None  # the thought; None when the server sent none that can be told apart
    response: str  # what follows the thought
    finish_reason: str  # "stop", "length", a word of the server's; "unknown" when it gave none
    prompt_tokens: int | None  # over all requests that it took
    completion_tokens: int | None
    logprobs: Logprobs | None = None
    thinking: bool = False  # the thought was never ended
    unsent: frozenset[str] = frozenset()  # fields of the sampling that the server was not sent


def can_continue(completion: Completion) -> bool:
    """Whether it was cut at the token limit in its thought, or in plain text without any."""
    if completion.finish_reason != "length":
        return False
    if completion.thinking or completion.reasoning is not None or not completion.response:
        return completion.thinking
    found = split_by_marks(completion.response)
    return not has_marks(completion.response) if found is None else not found.closed


def said_so_far(cut: Completion) -> str:
    """The assistant's message to go on with; a thought is still open in it."""
    return f"{OPEN}\n{cut.reasoning}" if cut.thinking else cut.response


def split_thought(content: str, thought: str, *, cut: bool = False) -> tuple[str | None, str, bool]:
    """The thought, what follows it, and whether the thought was never ended, however the server sent them.

    A thought in a field of its own is taken without marks that a parser left around it. Otherwise text with
    one plain pair of marks is split, whichever they are (dialects.py). Any other arrangement of marks is
    ambiguous: it stays whole in the response, for a filter to refuse.
    `cut`: the end of the text is kept as it is, because what continues it depends on it; so is a thought that
    was cut and was not opened as we would open it.
    """
    ended = str.lstrip if cut else str.strip
    if thought.strip():
        thought, content, thinking = _of_its_own(thought, content)
    elif found := split_by_marks(content):
        thinking = not found.closed
        if not (thinking and cut and found.marks and found.marks.begin != OPEN):
            thought, content = found.thought, found.answer
    else:
        thinking = False
    thought = ended(thought) if thinking else thought.strip()
    return thought or None, ended(content), thinking and bool(thought)


def _of_its_own(thought: str, content: str) -> tuple[str, str, bool]:
    """A thought that came in a field of its own and the text beside it, without marks that a parser left."""
    if (left := split_by_marks(content)) and left.closed and not left.thought.strip():
        content = left.answer
    found = split_by_marks(thought)
    if found is None or (content.strip() and found.answer.strip()):
        return thought, content, not content
    return found.thought, content if content.strip() else found.answer, not found.closed and not content


def _joined(so_far: Completion, content: str, thought: str) -> tuple[str, str]:
    """Content and thought of the whole, from those of the answer that goes on with `so_far`."""
    content = content.removeprefix(said_so_far(so_far))  # some servers repeat what they go on with
    if not so_far.thinking:
        return so_far.response + thought + content, ""
    if thought.strip() and CLOSE not in thought:
        return content, f"{so_far.reasoning}{thought}"
    return f"{OPEN}{so_far.reasoning}{thought}{content}", ""


@dataclass
class _Said:
    """What one choice said so far."""

    content: list[str] = field(default_factory=list)
    thought: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)  # of the thought; see THOUGHT_PARTS
    refusal: list[str] = field(default_factory=list)
    end: str | None = None  # what the word means
    word: str = ""  # the server's, for the end
    streamed: bool = False  # in pieces

    @property
    def pieces(self) -> int:
        """How often text came; empty pieces are not kept."""
        return sum(map(len, (self.content, self.thought, self.parts, self.refusal)))

    def take(self, choice: dict[str, Any]) -> bool:
        """Whether it says anything: a filter's remark, for one, has neither words nor an end."""
        reason = choice.get("finish_reason")
        if reason is not None:
            if not isinstance(reason, str) or len(reason) > 64:
                raise _wrong("finish_reason is no word")
            if end := end_of(reason):
                self.end, self.word = end, reason
        message = choice.get("delta")
        self.streamed |= message is not None
        if message is None and not self.streamed:  # at the end of a stream it would say all again
            message = choice.get("message")
        if isinstance(text := choice.get("text"), str):  # of a completion of a prompt
            message = {"content": text}
        if message is None:
            return self.end is not None
        if not isinstance(message, dict):
            raise _wrong("a choice has no message")
        self._take_message(message)
        return True

    def _take_message(self, message: dict[str, Any]) -> None:
        if content := message.get("content"):
            self._take_content(content)
        for names, kept in ((THOUGHT_FIELDS, self.thought), (THOUGHT_PARTS, self.parts)):
            texts = (_text(name, value) for name in names if _holds_text(value := message.get(name)))
            kept += islice(filter(None, texts), 1)
        if refusal := message.get("refusal"):
            self.refusal.append(_text("refusal", refusal))

    def _take_content(self, content: Any) -> None:
        """A text, or parts of which some may be thoughts, as Mistral sends them."""
        for part in content if isinstance(content, list) else [content]:
            is_thought = isinstance(part, dict) and part.get("type") in THOUGHT_KINDS
            kept = self.thought if is_thought else self.content
            kept += filter(None, [_text("content", part)])

    def texts(self) -> tuple[str, str]:
        """Content and thought."""
        content = "".join(self.content) or "".join(self.refusal)
        thought = "".join(self.thought)
        return mended(content), mended(thought if thought.strip() else "".join(self.parts))


class Reader:
    """Takes the bytes of a good answer as they come; `completion` says what they came to.

    Both raise Retry, ErrorStatus or RequestFailed for an answer that is none.
    """

    def __init__(self, logprobs: int | None = None) -> None:
        self._bodies = Bodies(self._take)
        self._choices: dict[int, _Said] = {}
        self._counts: tuple[int | None, int | None] = (None, None)  # tokens of prompt and completion
        self._answered = False
        self._else: Any = None  # the first body that said nothing of an answer
        self._logprobs = logprobs
        self._tokens: dict[int, Tokens] = {}

    @property
    def pieces(self) -> int:
        """Pieces of text so far: neither empty ones nor what keeps the connection alive."""
        return sum(said.pieces for said in self._choices.values())

    @property
    def began(self) -> bool:
        """Whether the answer began, with text or without: it may have to be paid."""
        return self._answered

    @property
    def tokens(self) -> int | None:
        """Prompt and completion together, as the server counts; 0 before anything came, None: not said."""
        if not self._answered:
            return 0
        return None if None in self._counts else sum(n or 0 for n in self._counts)

    def feed(self, chunk: bytes) -> None:
        self._bodies.feed(chunk)

    def completion(self, so_far: Completion | None = None) -> Completion:
        """The completion; joined with `so_far` where it goes on with that. May raise NoLogprobs too."""
        done = self._bodies.end()
        first = min(self._choices, default=0)  # the only one that was asked for
        said = self._choices.get(first) or _Said()
        if not done and said.end is None:
            raise Retry("cut", "the answer was cut off: it ended without a finish_reason" + self._quoted())
        if not self._answered:
            raise _wrong("there are no choices" + self._quoted())
        if said.end == "given up":
            raise Retry("cut", f"the answer was cut off: finish_reason {said.word!r}")
        return self._completion(said, self._tokens.get(first), so_far)

    def _completion(self, said: _Said, tokens: Tokens | None, so_far: Completion | None) -> Completion:
        ended = said.end or "unknown"
        content, thought = said.texts()
        spoken = bool(content or thought)
        prompt, completion = (count or (None if spoken else count) for count in self._counts)
        if so_far:
            content, thought = _joined(so_far, content, thought)
            prompt = _sum(so_far.prompt_tokens, prompt)
            completion = _sum(so_far.completion_tokens, completion)
        if ended != "length":
            content = without_end_marks(content)
        reasoning, response, thinking = split_thought(content, thought, cut=ended == "length")
        logprobs = None
        if self._logprobs is not None:
            before = so_far.logprobs if so_far else None
            logprobs = (tokens or Tokens(self._logprobs)).row(reasoning, response, thinking, before)
        return Completion(reasoning, response, ended, prompt, completion, logprobs, thinking)

    def _take(self, body: Any) -> None:
        """A whole answer or a piece of one: they differ in "message" or "delta" alone."""
        if not isinstance(body, dict):
            raise _wrong("it is no object")
        if body.get("error") or body.get("object") == "error":
            raise ErrorStatus(_status_in(body), body)
        if isinstance(usage := body.get("usage"), dict):
            counts = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
            self._counts = counts if any(counts) or not any(self._counts) else self._counts
        choices = body.get("choices")
        if not choices:
            self._else = self._else or body
            choices = []
        if not isinstance(choices, list):
            raise _wrong("choices is no list")
        for position, choice in enumerate(choices):
            if not isinstance(choice, dict):
                raise _wrong("a choice is no object")
            index = choice.get("index")
            self._take_choice(index if isinstance(index, int) else position, choice)

    def _take_choice(self, index: int, choice: dict[str, Any]) -> None:
        if self._choices.setdefault(index, _Said()).take(choice):
            self._answered = True
        if self._logprobs is not None and (logprobs := choice.get("logprobs")):
            self._tokens.setdefault(index, Tokens(self._logprobs)).take(logprobs)

    def _quoted(self) -> str:
        """What came instead of an answer: some servers say in fields of their own why there is none."""
        if self._answered or not self._else:
            return ""
        return f"; the server said {json.dumps(self._else, ensure_ascii=False)[:MOST_QUOTED]}"


def _holds_text(value: Any) -> bool:
    return bool(value) and not isinstance(value, bool | int | float)


def _text(name: str, value: Any) -> str:
    text = text_of(value)
    if text is None:
        raise _wrong(f"its {name} has a part that is no text")
    return text


def _count(value: Any) -> int | None:
    """A count of tokens; None where it is none: the answer was paid for all the same."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,15}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        return None
    return int(value)


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
    return None if a is None or b is None else a + b
