"""Filters of how a thought is laid out: paragraphs that nobody can read, blocks of code.

DeepSeek-R1 filtered out chains of thought "with mixed languages, long paragraphs, and code blocks", being
"chaotic and difficult to read" (arXiv 2501.12948, 2.3.3). It gives no figures: the defaults are ours.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from filters.finding import Finding, fit, unfit
from filters.prose import count_words, prose, thought

if TYPE_CHECKING:
    from pipeline.rows import Trace

WRAPPED = range(50, 161)  # characters of a line that was broken to a width, if a small letter follows
_FENCE = re.compile(r"^ {0,3}(?:[-*+>] {1,3})?(```|~~~)", re.MULTILINE)
_NUMBER = re.compile(r"\d[\d.,]*")


def paragraphs(trace: Trace, *, max_words: Annotated[int, Interval(ge=1)] = 400) -> Finding:
    """No paragraph of the thought has more than so many words.

    A new line begins a new paragraph, so lists and tables are none; numbers and formulas are no words.
    """
    for paragraph in _split(thought(trace)):
        if len(paragraph) <= max_words:
            continue
        words = count_words(_NUMBER.sub(" ", prose(paragraph)))
        if words > max_words:
            return unfit("long_paragraph", f"{words} words: {paragraph.strip()}")
    return fit()


def _split(text: str) -> list[str]:
    """Lines, of which those that were only broken to a width are joined again."""
    joined: list[list[str]] = [[""]]
    for line in text.split("\n"):
        if len(joined[-1][-1]) in WRAPPED and line[:1].islower():
            joined[-1].append(line)
        else:
            joined.append([line])
    return [" ".join(lines) for lines in joined]


def no_code(trace: Trace, *, max_blocks: Annotated[int, Interval(ge=0)] = 0) -> Finding:
    """The thought holds at most so many fenced blocks of code; code within a line does not count."""
    fences = list(_FENCE.finditer(thought(trace)))
    blocks = (len(fences) + 1) // 2  # each has two, but for one that was left open at the end
    if blocks <= max_blocks:
        return fit()
    start = fences[2 * max_blocks].start()
    return unfit("code_block", thought(trace)[start:])
