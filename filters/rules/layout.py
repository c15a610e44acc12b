"""Filters of how a thought is laid out: paragraphs that nobody can read, blocks of code.

DeepSeek-R1 filtered out chains of thought "with mixed languages, long paragraphs, and code blocks", being
"chaotic and difficult to read" (arXiv 2501.12948, 2.3.3). It gives no figures: the defaults are ours.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from filters.result import FilterResult, failed, passed
from filters.text.prose import count_words, prose, thought

if TYPE_CHECKING:
    from pipeline.rows import Trace

WIDTHS = range(50, 301)  # characters to which a text may have been broken
_BLANK_LINES = re.compile(r"\n\s*\n")
_FIRST_WORD = re.compile(r"\s*([\u3040-\u30ff\u3400-\u9fff]|\S{1,20})")  # writings of Asia break anywhere
_SENTENCE_END = tuple(".!?:;。！？：；")  # noqa: RUF001
_NUMBER = re.compile(r"\d[\d.,]*")
# A fence at the start of a line or of an item of a list, however far it is set in; or HTML for the same.
_FENCE = re.compile(
    r"^[ \t]{0,80}(?:(?:[-*+>]|\d{1,3}[.)])[ \t]{1,3}){0,3}(?P<mark>```|~~~)[`~]*[ \t]*(?P<language>\w*)"
    r"(?![^\n]*```)"  # which closes in its line
    r"|(?P<pre><pre\b[^<>\n]{0,80}>(?=\s{0,9}<code\b)|^[ \t]{0,80}<pre\b[^<>\n]{0,80}>)",
    re.MULTILINE,
)
_FORMULAS = frozenset(("math", "latex", "tex", "katex"))  # what a fence says that sets a formula apart


def paragraphs(trace: Trace, *, max_words: Annotated[int, Interval(ge=1)] = 400) -> FilterResult:
    """No paragraph of the thought has more than so many words.

    A new line begins a new paragraph, so lists and tables are none; numbers and formulas are no words. Lines
    that were only broken to a width are one paragraph.
    """
    for block in _BLANK_LINES.split(thought(trace)):
        if _may_have(block, max_words):
            for paragraph in _paragraphs(block):
                words = _count(paragraph) if _may_have(paragraph, max_words) else 0
                if words > max_words:
                    return failed("long_paragraph", f"{words} words: {paragraph.strip()}")
    return passed()


def _may_have(text: str, max_words: int) -> bool:
    """Whether there is room for more words: where blanks part them, each takes two characters."""
    return len(text) >= (2 * max_words if text.isascii() else max_words)


def _count(paragraph: str) -> int:
    return count_words(_NUMBER.sub(" ", prose(paragraph)))


def _paragraphs(block: str) -> list[str]:
    lines = block.split("\n")
    return [" ".join(lines)] if _was_wrapped(lines) else lines


def _was_wrapped(lines: list[str]) -> bool:
    """Whether lines were broken to a width: nearly all but the last have no room for the next one's word.

    Most lines of a list end a sentence, or begin alike and go on otherwise.
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
    """The thought holds at most so many blocks of code, fenced or in HTML; code within a line does not count,
    nor does a formula in a fence.
    """
    text = thought(trace)
    if not any(mark in text for mark in ("```", "~~~", "<pre")):
        return passed()
    starts = _blocks(text)
    return passed() if len(starts) <= max_blocks else failed("code_block", text[starts[max_blocks] :])


def _blocks(text: str) -> list[int]:
    """Where blocks of code start; the last may never close."""
    starts = []
    inside = None  # the mark that closes the block
    for fence in _FENCE.finditer(text):
        if inside:
            inside = None if fence["mark"] == inside else inside
            continue
        inside = fence["mark"]
        if not inside or fence["language"].lower() not in _FORMULAS:
            starts.append(fence.start())
    return starts
