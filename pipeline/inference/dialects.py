"""Tables of how servers name the same thing: finish reasons, fields of reasoning, marks around reasoning.

A new dialect is a new line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

OPEN, CLOSE = "<think>", "</think>"  # the marks that most models use, and the only ones that we write

# ------------------------------------------------------------------------------ how a response ended

_FINISH_REASONS = {
    # OpenAI's word, then those of TGI, Together, Anthropic, Gemini, Cohere, llama.cpp, Ollama, Mistral,
    # watsonx and Zhipu, in lower case.
    "stop": "stop eos eos_token eos_found end_turn end_of_turn stop_sequence stop_token stop_string "
    "endoftext complete completed end finished",
    "length": "length max_tokens max_length max_output_tokens max_new_tokens max_completion_tokens "
    "model_length token_limit limit context_length model_context_window_exceeded",
    "aborted": "abort aborted error server_error internal_error network_error timeout time_limit "
    "insufficient_system_resource cancelled canceled user_cancel not_finished unavailable",
}
_CANONICAL = {word: reason for reason, words in _FINISH_REASONS.items() for word in words.split()}
_WORD = re.compile(r"[a-z_]{1,32}")  # unknown reasons are counted and shown


def canonical_finish_reason(word: str) -> str | None:
    """Returns "stop", "length", "aborted", or the server's own word if it is in no table.

    None if the word carries no meaning; "other" if it is not a word.
    """
    word = word.strip().lower().replace("-", "_").removeprefix("finish_reason_").removeprefix("finishreason.")
    if word in ("", "null", "none", "finish_reason_unspecified", "unspecified"):
        return None
    return _CANONICAL.get(word) or (word if _WORD.fullmatch(word) else "other")


# ------------------------------------------------------------------------------ fields of a message

# The first field that holds text is used: OpenRouter, vLLM and LiteLLM send the same text in several.
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought", "reasoning_text")
# Lists of parts. They may repeat the fields above, so they are used only where those are empty.
REASONING_PARTS = ("reasoning_details", "thinking_blocks")
# Types of parts that are reasoning, fields of parts that hold text, and types of parts without text.
REASONING_TYPES = frozenset({"thinking", "thought", "reasoning", "reasoning.text", "reasoning.summary"})
_TEXT_FIELDS = ("text", "thinking", "reasoning", "thought", "summary", "content")
_TEXTLESS_TYPES = frozenset({"reasoning.encrypted", "redacted_thinking", "signature", "reference"})
_MAX_DEPTH = 4  # of lists in parts


def text_of(value: Any, depth: int = _MAX_DEPTH) -> str | None:
    """Returns the text of a field: a string, a part, or a list of those. None if it holds anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        texts = [text_of(each, depth - 1) for each in value]
        return None if None in texts else "".join(text or "" for text in texts)
    if not isinstance(value, dict) or not depth:
        return None
    held = next((value[name] for name in _TEXT_FIELDS if value.get(name) is not None), None)
    if held is None:
        return "" if value.get("type") in _TEXTLESS_TYPES else None
    return text_of(held, depth - 1)


# ------------------------------------------------------------------------------ marks around reasoning


class Marks(NamedTuple):
    """The marks that one family of models puts around reasoning inside its text."""

    begin: str
    end: str
    answer: tuple[str, str] = ("", "")  # optional marks around the answer that follows
    tail: tuple[str, ...] = ()  # optional marks at the end of the reasoning, the last first
    words: bool = False  # plain words, which are marks only as a pair


def _tags(name: str) -> tuple[Marks, ...]:
    forms = (f"<{name}>", f"</{name}>"), (f"<{name.upper()}>", f"</{name.upper()}>")
    return tuple(Marks(*form) for form in (*forms, (f"< {name} >", f"</ {name} >")))


_TAGS = ("think", "thinking", "thought", "thoughts", "reasoning", "reason", "seed:think", "mm:think")
_HARMONY = ("<|start|>assistant", "<|end|>")
MARKS = (
    *(marks for name in _TAGS for marks in _tags(name)),
    Marks("[THINK]", "[/THINK]"),  # Magistral
    Marks("◁think▷", "◁/think▷"),  # Kimi-VL
    Marks("<|begin_of_thought|>", "<|end_of_thought|>", ("<|begin_of_solution|>", "<|end_of_solution|>")),
    Marks("<|START_THINKING|>", "<|END_THINKING|>", ("<|START_RESPONSE|>", "<|END_RESPONSE|>")),  # Cohere
    Marks("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus
    Marks("<|channel|>analysis<|message|>", "<|channel|>final<|message|>", tail=_HARMONY),  # gpt-oss
    Marks("analysis", "assistantfinal", words=True),  # gpt-oss without its special tokens
    Marks("<|channel>thought\n", "<channel|>"),  # Gemma 4
    Marks("Here is my thought process:", "Here is my response:", words=True),  # Granite 3
)

# The families that a recipe can name
FORMATS: dict[str, tuple[Marks, ...]] = {
    **{name: _tags(name) for name in ("think", "thinking", "thought", "reasoning")},
    "magistral": tuple(marks for marks in MARKS if marks.begin == "[THINK]"),
    "open_thoughts": tuple(marks for marks in MARKS if marks.begin == "<|begin_of_thought|>"),
    "harmony": tuple(
        marks for marks in MARKS if marks.end in ("<|channel|>final<|message|>", "assistantfinal")
    ),
}


class Split(NamedTuple):
    reasoning: str
    answer: str  # the text after the reasoning
    marks: Marks | None  # None where the chat template wrote the opening mark
    closed: bool


def split_by_marks(text: str, families: Sequence[Marks] = MARKS) -> Split | None:
    """Splits a text into reasoning and answer; None if the marks are ambiguous.

    Unambiguous is one pair of marks that begins the text, and either mark alone: `reasoning</think>answer`
    (the chat template wrote the opening mark) and `<think>reasoning` (never closed).
    """
    bare = text.lstrip()
    for marks in families:
        ends = text.count(marks.end)
        if bare.startswith(marks.begin):
            if text.count(marks.begin) > 1 or ends > 1 or (marks.words and not ends):
                continue
            reasoning, _, answer = bare.removeprefix(marks.begin).partition(marks.end)
            return Split(_without_tail(reasoning, marks), _without_frame(answer, marks), marks, ends == 1)
        if ends == 1 and not marks.words and marks.begin not in text:
            reasoning, _, answer = text.partition(marks.end)
            return Split(_without_tail(reasoning, marks), _without_frame(answer, marks), None, True)
    return None


def has_marks(text: str) -> bool:
    """Whether the text contains a mark of any family."""
    return any(mark in text for marks in MARKS if not marks.words for mark in marks[:2])


def _without_tail(reasoning: str, marks: Marks) -> str:
    for mark in marks.tail:
        if reasoning.rstrip().endswith(mark):
            reasoning = reasoning.rstrip().removesuffix(mark)
    return reasoning


def _without_frame(answer: str, marks: Marks) -> str:
    first, last = marks.answer
    if first and answer.lstrip().startswith(first):
        answer = answer.lstrip().removeprefix(first)
    if last and answer.rstrip().endswith(last):
        answer = answer.rstrip().removesuffix(last)
    return answer


def split_reasoning(
    content: str, reasoning: str, *, truncated: bool = False, families: Sequence[Marks] = MARKS
) -> tuple[str | None, str, bool]:
    """Returns reasoning, response, and whether the reasoning was never closed, however the server sent them.

    Reasoning in a field of its own is stripped of marks that a parser left. Otherwise text with unambiguous
    marks is split (dialects.py); any other text stays whole in the response, for a filter to reject.
    `truncated`: the end of the text is kept verbatim because its continuation depends on it; so is truncated
    reasoning that does not begin with our own opening mark.
    """
    strip = str.lstrip if truncated else str.strip
    if reasoning.strip():
        reasoning, content, thinking = _from_own_field(reasoning, content, families)
    elif split := split_by_marks(content, families):
        thinking = not split.closed
        if not (thinking and truncated and split.marks and split.marks.begin != OPEN):
            reasoning, content = split.reasoning, split.answer
    else:
        thinking = False
    reasoning = strip(reasoning) if thinking else reasoning.strip()
    return reasoning or None, strip(content), thinking and bool(reasoning)


def _from_own_field(reasoning: str, content: str, families: Sequence[Marks]) -> tuple[str, str, bool]:
    """Removes the marks that a parser left in the reasoning field or in the content."""
    if (rest := split_by_marks(content, families)) and rest.closed and not rest.reasoning.strip():
        content = rest.answer
    split = split_by_marks(reasoning, families)
    if split is None or (content.strip() and split.answer.strip()):
        return reasoning, content, not content
    open_ = not split.closed and not content
    return split.reasoning, content if content.strip() else split.answer, open_
