"""The words of a trace: its thought, less what is no prose (code, formulas, addresses).

Shared by the rules of language and layout. Every pass is linear in the text's length.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.rows import Trace

# No alternative reads past the next mark of its kind, so that all of them together read a text once.
_NO_PROSE = re.compile(
    r"\\\\"  # a row's end, which begins no formula: \\[2pt]
    r"|```[^`]*+(?:`{1,2}(?!`)[^`]*+)*+(?:```|\Z)"  # a block of code, closed or not
    r"|`[^`\n]{1,200}`"
    r"|\$\$[^$]{1,2000}\$\$|\$[^$\n]{1,500}\$"
    r"|\\\((?:[^\\]|\\[^()\[\]])*+\\\)|\\\[(?:[^\\]|\\[^()\[\]])*+\\\]"
    r"|\\(?:begin|end|text|mathrm|operatorname)\{[^{}\n]{0,40}\}"
    r"|\\[A-Za-z]{1,30}"
    r"|https?://[^\s]{1,300}"
)
_MARKS = ("`", "$", "\\", "http")

# A word, or one character of a writing that does not part words: Han, kana, Thai, Lao, Khmer, Burmese.
_UNPARTED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_WORD = re.compile(rf"[{_UNPARTED}]|[^\W{_UNPARTED}]+")


def thought(trace: Trace) -> str:
    """The chain of thought; where the server told none apart, the whole response."""
    return trace.response if trace.reasoning is None else trace.reasoning


def prose(text: str) -> str:
    """The text with code, formulas, LaTeX commands and addresses replaced by a blank."""
    return _NO_PROSE.sub(" ", text) if any(mark in text for mark in _MARKS) else text


def count_words(text: str) -> int:
    """Words between blanks; characters where the writing does not part words."""
    return len(text.split()) if text.isascii() else sum(1 for _ in _WORD.finditer(text))
