"""Letters of multiple choice: what letter an answer names, where it names one alone.

The letters are A to H: I and J are words and variables more often than options.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Choice(NamedTuple):
    letter: str  # upper case
    text: str  # what stands beside it, "" where nothing does


_BRACKETED = re.compile(r"[(\[]\s?([A-Ha-h])\s?[)\]]\s?[.:]?\s?(.*)", re.DOTALL)
_LETTER = re.compile(r"([A-H])(?:\s?[.:)]+(?:\s(.*))?|\s[-–]?\s?([A-Z][a-z]{2}.*))?", re.DOTALL)  # noqa: RUF001
_OPTION = re.compile(r"(?:option|choice|answer|letter)\s+\(?([A-Ha-h])\)?", re.IGNORECASE)
_ALONE = re.compile(
    r"(?<![A-Za-z/&+=*^'’\-])(?!A [a-z]+(?<!because)(?<!since))([A-H])(?![A-Za-z/&+=*^'’(\-])"  # noqa: RUF001
)
_CLAUSE = re.compile(r"[,;.](?:\s|$)|\n|\bbut\b|\bbecause\b|\bsince\b")
_DOUBTED = re.compile(
    r"\b(?:not|no|never|can't|cannot|isn't|nor|neither|might|may|maybe|perhaps|unsure)\b", re.IGNORECASE
)


def read_choice(text: str) -> Choice | None:
    """The choice that a folded text is: "C", "(C)", "C.", "(C) Alina", "C: Alina"; None for any other."""
    if match := _BRACKETED.fullmatch(text):
        return Choice(match[1].upper(), match[2].strip())
    if match := _LETTER.fullmatch(text):
        return Choice(match[1], (match[2] or match[3] or "").strip())
    if match := _OPTION.fullmatch(text):
        return Choice(match[1].upper(), "")
    return None


def same_choice(gold: Choice, given: str, *, case_sensitive: bool = False) -> bool | None:
    """Whether a folded text names the reference's option; None where it names none, or several."""
    choice = read_choice(given)
    if choice is None and not gold.text and len(given) == 1 and not case_sensitive and given.isalpha():
        return given.upper() == gold.letter
    if choice is not None:
        return choice.letter == gold.letter
    if gold.text and given.casefold() == gold.text.casefold():
        return True
    for clause in reversed(_CLAUSE.split(given)):
        letters = set(_ALONE.findall(clause))
        if letters and "\\" not in clause and re.search(r"[a-z]{2}", clause) and not _DOUBTED.search(clause):
            return letters == {gold.letter} if len(letters) == 1 else None
    return None
