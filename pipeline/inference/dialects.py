"""What servers call one and the same thing: words for an end, fields of a thought, marks around one.

Three tables; a new dialect is a new line. Leaves out how an answer is read with them (replies.py).
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

OPEN, CLOSE = "<think>", "</think>"  # the marks that most models use, and the only ones that we write

# ------------------------------------------------------------------------------ how an answer ended

_ENDS = {
    # OpenAI's word, then those of TGI, Together, Anthropic, Gemini, Cohere, llama.cpp, Ollama, Mistral,
    # watsonx and Zhipu, in small letters.
    "stop": "stop eos eos_token eos_found end_turn end_of_turn stop_sequence stop_token stop_string "
    "endoftext complete completed end finished",
    "length": "length max_tokens max_length max_output_tokens max_new_tokens max_completion_tokens "
    "model_length token_limit limit context_length model_context_window_exceeded",
    "given up": "abort aborted error server_error internal_error network_error timeout time_limit "
    "insufficient_system_resource cancelled canceled user_cancel not_finished unavailable",
}
_END = {word: end for end, words in _ENDS.items() for word in words.split()}
_WORD = re.compile(r"[a-z_]{1,32}")  # it will be counted and shown


def end_of(word: str) -> str | None:
    """How an answer ended: "stop", "length", "given up" by the server, or its own word where we know none.

    None where the word says nothing; "other" where it is no word.
    """
    word = word.strip().lower().replace("-", "_").removeprefix("finish_reason_").removeprefix("finishreason.")
    if word in ("", "null", "none", "finish_reason_unspecified", "unspecified"):
        return None
    return _END.get(word) or (word if _WORD.fullmatch(word) else "other")


# ------------------------------------------------------------------------------ where the thought stands

# Of a message, the first that holds text is taken: OpenRouter, vLLM and LiteLLM send the same in several.
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking", "thought", "reasoning_text")
# Lists of parts. They may repeat what the fields above said, so they count where those said nothing.
THOUGHT_PARTS = ("reasoning_details", "thinking_blocks")
# Of a part of a list: its kinds that are thoughts, its fields that hold text, and its kinds without any.
THOUGHT_KINDS = frozenset({"thinking", "thought", "reasoning", "reasoning.text", "reasoning.summary"})
TEXT_FIELDS = ("text", "thinking", "reasoning", "thought", "summary", "content")
WORDLESS_KINDS = frozenset({"reasoning.encrypted", "redacted_thinking", "signature", "reference"})

_DEPTH = 4  # of lists in parts


def text_of(value: Any, depth: int = _DEPTH) -> str | None:
    """The text of a field: a string, a part, or a list of those. None where it holds something else."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        texts = [text_of(each, depth - 1) for each in value]
        return None if None in texts else "".join(text or "" for text in texts)
    if not isinstance(value, dict) or not depth:
        return None
    held = next((value[name] for name in TEXT_FIELDS if value.get(name) is not None), None)
    if held is None:
        return "" if value.get("type") in WORDLESS_KINDS else None
    return text_of(held, depth - 1)


# ------------------------------------------------------------------------------ marks around a thought


class Marks(NamedTuple):
    """How one family of models marks a thought within its text."""

    begin: str
    end: str
    answer: tuple[str, str] = ("", "")  # what may stand around the answer after it
    tail: tuple[str, ...] = ()  # what may end the thought, the last first
    words: bool = False  # plain words, which mean something together alone


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
    Marks("analysis", "assistantfinal", words=True),  # the same without its special tokens
    Marks("<|channel>thought\n", "<channel|>"),  # Gemma 4
    Marks("Here is my thought process:", "Here is my response:", words=True),  # Granite 3
)


class Split(NamedTuple):
    thought: str
    answer: str  # what follows it
    marks: Marks | None  # None where the chat template opened the thought
    closed: bool


def split_by_marks(text: str) -> Split | None:
    """The thought in a text and what follows it; None where that is not plain.

    Plain is one pair of marks, the first of them at the start, and each of its two forms where one is
    missing: `thought</think>answer` (the chat template opened it) and `<think>thought` (never closed).
    """
    bare = text.lstrip()
    for marks in MARKS:
        ends = text.count(marks.end)
        if bare.startswith(marks.begin):
            if text.count(marks.begin) > 1 or ends > 1 or (marks.words and not ends):
                continue
            thought, _, answer = bare.removeprefix(marks.begin).partition(marks.end)
            return Split(_without_tail(thought, marks), _inside(answer, marks), marks, ends == 1)
        if ends == 1 and not marks.words and marks.begin not in text:
            thought, _, answer = text.partition(marks.end)
            return Split(_without_tail(thought, marks), _inside(answer, marks), None, True)
    return None


def has_marks(text: str) -> bool:
    """Whether a mark of any family stands in the text."""
    return any(mark in text for marks in MARKS if not marks.words for mark in marks[:2])


def _without_tail(thought: str, marks: Marks) -> str:
    for mark in marks.tail:
        if thought.rstrip().endswith(mark):
            thought = thought.rstrip().removesuffix(mark)
    return thought


def _inside(answer: str, marks: Marks) -> str:
    """The answer without the marks around it."""
    first, last = marks.answer
    if first and answer.lstrip().startswith(first):
        answer = answer.lstrip().removeprefix(first)
    if last and answer.rstrip().endswith(last):
        answer = answer.rstrip().removesuffix(last)
    return answer
