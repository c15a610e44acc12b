"""Finds phrases that announce an answer, in several languages: "the answer is", "Antwort:", "答案是".

Only unambiguous phrases are listed. "So we get" and "therefore" also introduce intermediate steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_OCCURRENCES = 3  # of each word that are tried, from the end of the text


class Announcement(NamedTuple):
    start: int
    end: int
    final: bool  # the phrase says "final answer"


# Word -> what follows it before the answer. %s stands for _MARK, %n for _REMARK.
_MARK = r"[ \t*_]{0,9}(?::|：|=)"  # noqa: RUF001
_WORDS: dict[str, str] = {
    "answer": r"(?:[ \t]+(?:to|of|for)\b[^\n.:=]{0,40})?"
    r"(?:[ \t*_]{0,9}\b(?:is|are|(?:would|will|must|should) be|equals|comes out to)\b(?!%n)"
    r"(?:[ \t]+(?:clearly|simply|therefore|thus|then|just|exactly)\b)?|%s)",
    "ans": r"%s",
    "choice": r"[ \t]+is\b|%s",
    **dict.fromkeys(("correct option", "right option", "best option"), r"[ \t]+(?:is|would be|must be)\b|%s"),
    "antwort": r"[ \t]+(?:ist|lautet|wäre)\b|%s",
    "ergebnis": r"[ \t]+(?:ist|lautet|beträgt)\b|%s",
    "lösung": r"[ \t]+(?:ist|lautet|beträgt)\b|%s",
    "réponse": r"(?:[ \t]+(?:finale|correcte))?(?:[ \t]+(?:est|serait)\b|%s)",
    "respuesta": r"(?:[ \t]+(?:final|correcta))?(?:[ \t]+(?:es|sería)\b|%s)",
    "risposta": r"(?:[ \t]+(?:finale|corretta))?(?:[ \t]+è\b|%s)",
    "resposta": r"(?:[ \t]+(?:final|correta))?(?:[ \t]+(?:é|seria)\b|%s)",
    "antwoord": r"[ \t]+(?:is|luidt)\b|%s",
    "odpowiedź": r"[ \t]+(?:to|brzmi)\b|%s",
    "svar": r"(?:et)?[ \t]+(?:är|er)\b|(?:et)?%s",
    "cevap": r"%s",
    "đáp án": r"[ \t]+là\b|%s",
    "đáp số": r"[ \t]+là\b|%s",
    "jawaban": r"(?:nya)?[ \t]+adalah\b|%s",
    "ответ": r"[ \t]*[—–-]|%s",  # noqa: RUF001
    "відповідь": r"[ \t]*[—–-]|%s",  # noqa: RUF001
    "答案": r"(?:应该|應該)?[是为為]|%s",
    "答え": r"は|%s",
    "答": r"%s",
    "정답": r"[은는]|%s",
    "답": r"[은는]|%s",
    "उत्तर": r"[ \t]+है|%s",
    "الإجابة": r"[ \t]+هي|%s",
    "الجواب": r"[ \t]+هو|%s",
    "উত্তর": r"[ \t]+(?:হল|হলো|হচ্ছে)|%s",
    "సమాధానం": r"%s",
    "คำตอบ": r"(?:สุดท้าย)?[ \t]*คือ|%s",
    "jibu": r"[ \t]+ni\b|%s",
    # The end of a GSM8K solution, but not a heading such as "#### 2. Result".
    "####": r"(?![ \t]*\d{1,2}[.)][ \t]+[A-Za-z*])(?:(?=[ \t]*[-+$\\(\d\[])|(?=[^\n]*\s*\Z))",
}
# Remarks on an answer instead of the answer: "the answer is correct", "the answer is in cm".
_REMARK = (
    r"[ \t]+(?:(?:rounded|correct|right|verified|clear|(?:very )?helpful|useful|obtained|found|given"
    r"|confirmed|based|as follows|below)\b|in (?!\[|\())"
)
_CONNECTORS = {
    word: re.compile(after.replace("%n", _REMARK).replace("%s", _MARK)) for word, after in _WORDS.items()
}
_ASCII = tuple(word for word in _WORDS if word.isascii())
_HEADED = re.compile(r"(?:\A|\n)[ \t]*(?:#{1,6}|\*\*)[ \t*]*(?:final[ \t]+)?\Z")
_LINE_END = re.compile(r"[ \t*]*\n")
_LINE_START = re.compile(r"(?:\A|\n)[ \t*]{0,9}\Z")


def announcements(text: str) -> list[Announcement]:
    """Returns the announcements of a text, the last one first. The answer may start at `end`."""
    lower = text.lower()
    if len(lower) != len(text):  # the lower case of a few letters is longer
        lower = text
    words = _ASCII if text.isascii() else _WORDS
    found = [
        Announcement(at, match.end(), lower[max(at - 7, 0) : at].lstrip("*_ ").startswith("final"))
        for word in words
        for at in _occurrences(lower, word)
        if (match := _announces(lower, word, at))
    ]
    if "\nB:" not in text:
        found += [Announcement(at, at + 2, False) for at in _occurrences(text, "A:") if _is_label(text, at)]
    return sorted(found, reverse=True)


def _occurrences(text: str, word: str) -> Iterator[int]:
    """Yields the offsets of the last MAX_OCCURRENCES occurrences of a word, from the end."""
    at = len(text)
    for _ in range(MAX_OCCURRENCES):
        at = text.rfind(word, 0, at)
        if at < 0:
            return
        yield at


def _announces(lower: str, word: str, at: int) -> re.Match[str] | None:
    """Matches the text between a word and the answer, or the end of a heading such as "## Answer"."""
    if at > 0 and word.isascii() and lower[at - 1].isalnum():
        return None
    end = at + len(word)
    if match := _CONNECTORS[word].match(lower, end):
        return match
    return _LINE_END.match(lower, end) if _HEADED.search(lower, max(at - 20, 0), at) else None


def _is_label(text: str, at: int) -> bool:
    """Whether "A:" starts a line, as in "A: 18" but not in "A:B = 1"."""
    return bool(_LINE_START.search(text, max(at - 10, 0), at)) and not text[at + 2 : at + 3].isalpha()
