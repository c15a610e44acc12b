"""Filters of the layout of reasoning: very long paragraphs, code blocks.

DeepSeek-R1 filtered out chains of thought "with mixed languages, long paragraphs, and code blocks", being
"chaotic and difficult to read" (arXiv 2501.12948, section 2.3.3). It gives no figures; the defaults are ours.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated

from annotated_types import Interval

from filters.result import FilterResult, failed, passed
from filters.text.prose import count_words, prose, reasoning_of
from pipeline.rows import Trace

WIDTHS = range(50, 301)  # characters per line of hard-wrapped text
_BLANK_LINES = re.compile(r"\n\s*\n")
_FIRST_WORD = re.compile(r"\s*([\u3040-\u30ff\u3400-\u9fff]|\S{1,20})")  # East Asian lines break anywhere
_SENTENCE_END = tuple(".!?:;。！？：；")  # noqa: RUF001
_NUMBER = re.compile(r"\d[\d.,]*")
# A fence at the start of a line or of a list item, indented or not; or the HTML equivalent.
_FENCE = re.compile(
    r"^[ \t]{0,80}(?:(?:[-*+>]|\d{1,3}[.)])[ \t]{1,3}){0,3}(?P<mark>```|~~~)[`~]*[ \t]*(?P<language>\w*)"
    r"(?![^\n]*```)"  # not one that closes on its own line
    r"|(?P<pre><pre\b[^<>\n]{0,80}>(?=\s{0,9}<code\b)|^[ \t]{0,80}<pre\b[^<>\n]{0,80}>)",
    re.MULTILINE,
)
_FORMULAS = frozenset(("math", "latex", "tex", "katex"))  # fences with these languages hold formulas


def paragraphs(trace: Trace, *, max_words: Annotated[int, Interval(ge=1)] = 400) -> FilterResult:
    """No paragraph of the reasoning has more than `max_words` words.

    Every line is a paragraph, so lists and tables pass; only hard-wrapped lines are joined into one. Numbers
    and formulas do not count as words.
    """
    for block in _BLANK_LINES.split(reasoning_of(trace)):
        if _may_have(block, max_words):
            lines = block.split("\n")
            for paragraph in [" ".join(lines)] if _is_wrapped(lines) else lines:
                words = _count(paragraph) if _may_have(paragraph, max_words) else 0
                if words > max_words:
                    return failed("long_paragraph", f"{words} words: {paragraph.strip()}")
    return passed()


def _may_have(text: str, max_words: int) -> bool:
    """Quick test whether so many words fit: a word and its blank take at least two characters."""
    return len(text) >= (2 * max_words if text.isascii() else max_words)


def _count(paragraph: str) -> int:
    return count_words(_NUMBER.sub(" ", prose(paragraph)))


def _is_wrapped(lines: list[str]) -> bool:
    """Whether lines are hard-wrapped: on nearly all but the last, the next line's first word does not fit.

    Excludes lists, whose lines mostly end a sentence, or begin alike and then differ.
    """
    width, breaks = max(map(len, lines)), len(lines) - 1
    if breaks < 2 or width not in WIDTHS:
        return False
    first = [match[1] if (match := _FIRST_WORD.match(line)) else "" for line in lines]
    full = sum(len(line) + 1 + len(word) > 0.9 * width for line, word in zip(lines, first[1:], strict=False))
    begins = [_NUMBER.sub("", word) for word in first]
    alike = sum(a == b for a, b in pairwise(begins)) - sum(a == b for a, b in pairwise(lines))
    ends = sum(line.rstrip().endswith(_SENTENCE_END) for line in lines[:-1])
    return full >= 0.8 * breaks and alike <= 0.4 * breaks and ends <= 0.4 * breaks


def no_code(trace: Trace, *, max_blocks: Annotated[int, Interval(ge=0)] = 0) -> FilterResult:
    """The reasoning has at most `max_blocks` code blocks, fenced or in HTML, not counting inline code and
    fenced formulas.
    """
    text = reasoning_of(trace)
    if not any(mark in text for mark in ("```", "~~~", "<pre")):
        return passed()
    starts = _blocks(text)
    return passed() if len(starts) <= max_blocks else failed("code_block", text[starts[max_blocks] :])


def _blocks(text: str) -> list[int]:
    """Start positions of code blocks; the last block may be unclosed."""
    starts = []
    inside = None  # the fence that closes the current block
    for fence in _FENCE.finditer(text):
        if inside:
            inside = None if fence["mark"] == inside else inside
            continue
        inside = fence["mark"]
        if not inside or fence["language"].lower() not in _FORMULAS:
            starts.append(fence.start())
    return starts
