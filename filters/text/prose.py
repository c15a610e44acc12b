"""Extracts the prose of a text, without code, formulas and URLs, and counts its words.

Used by the rules on language and layout. Every pass takes linear time.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.rows import Trace

# No alternative reads past the next delimiter of its kind, so the whole pattern reads a text once.
_NO_PROSE = re.compile(
    r"\\\\"  # the end of a table row, which opens no formula: \\[2pt]
    r"|```[^`]*+(?:`{1,2}(?!`)[^`]*+)*+(?:```|\Z)"  # a code block, closed or not
    r"|`[^`\n]{1,200}`"
    r"|\$\$[^$]{1,2000}\$\$|\$[^$\n]{1,500}\$"
    r"|\\\((?:[^\\]|\\[^()\[\]])*+\\\)|\\\[(?:[^\\]|\\[^()\[\]])*+\\\]"
    r"|\\(?:begin|end|text|mathrm|operatorname)\{[^{}\n]{0,40}\}"
    r"|\\[A-Za-z]{1,30}"
    r"|https?://[^\s]{1,300}"
)
_MARKS = ("`", "$", "\\", "http")

# Scripts without spaces between words: Han, kana, Thai, Lao, Khmer, Burmese. Each character is a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


def reasoning_of(trace: Trace) -> str:
    """Returns the reasoning, or the whole response if the server did not separate the two."""
    return trace.response if trace.reasoning is None else trace.reasoning


def prose(text: str) -> str:
    """Replaces code, formulas, LaTeX commands and URLs by spaces."""
    return _NO_PROSE.sub(" ", text) if any(mark in text for mark in _MARKS) else text


def count_words(text: str) -> int:
    """Counts words between spaces, and characters in scripts without spaces."""
    return len(text.split()) if text.isascii() else sum(1 for _ in _WORD.finditer(text))
