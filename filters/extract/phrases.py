"""How a text announces its answer, in several languages: "the answer is", "Antwort:", "答案是".

Only words that can mean nothing else are here; "so we get" and "therefore" stand before steps too.
"""

from __future__ import annotations

import re
from typing import NamedTuple

TRIES = 3  # places of each word that are looked at, from the end


class PooledEndpoint(NamedTuple):
    start: int
    end: int
    final: bool  # it said "final answer"


# What may follow the word before what is announced, for words of a language; None is any of the marks alone.
_MARK = r"[ \t*_]{0,9}(?::|：|=)"  # noqa: RUF001
_WORDS: dict[str, str] = {
    "answer": r"(?:[ \t]+(?:to|of|for)\b[^\n.:=]{0,40})?"
    r"(?:[ \t*_]{0,9}\b(?:is|are|(?:would|will|must|should) be|equals|comes out to)\b(?!%n)"
    r"(?:[ \t]+(?:clearly|simply|therefore|thus|then|just|exactly)\b)?|%s)",
    "ans": r"%s",
    "choice": r"[ \t]+is\b|%s",
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
    # How GSM8K ends; a heading, "#### 2. Result", is none.
    "####": r"(?![ \t]*\d{1,2}[.)][ \t]+[A-Za-z*])(?:(?=[ \t]*[-+$\\(\d\[])|(?=[^\n]*\s*\Z))",
}
# What is said of an answer and is none: "the answer is correct", "is in cm".
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


def announcements(text: str) -> list[PooledEndpoint]:
    """Where an answer is announced, the last first; `end` is where it may begin."""
    lower = text.lower()
    if len(lower) != len(text):  # a few letters have longer small ones
        lower = text
    words = _ASCII if text.isascii() else _WORDS
    found = [place for word in words if word in lower for place in _places(lower, word)]
    if "A:" in text:
        found += _answer_lines(text)
    return sorted(found, reverse=True)


def _places(lower: str, word: str) -> list[PooledEndpoint]:
    found = []
    at = lower.rfind(word)
    for _ in range(TRIES):
        if at < 0:
            break
        apart = at == 0 or not (word.isascii() and lower[at - 1].isalnum())
        match = _CONNECTORS[word].match(lower, at + len(word)) or _heading(lower, at, at + len(word))
        if apart and match:
            found.append(
                PooledEndpoint(at, match.end(), lower[max(at - 7, 0) : at].lstrip("*_ ").startswith("final"))
            )
        at = lower.rfind(word, 0, at)
    return found


def _heading(lower: str, start: int, end: int) -> re.Match[str] | None:
    """ "## Answer" or "**Final answer**" with a line of its own."""
    if not _HEADED.search(lower, max(start - 20, 0), start):
        return None
    return _LINE_END.match(lower, end)


def _answer_lines(text: str) -> list[PooledEndpoint]:
    """ "A: 18" at the start of a line."""
    found = []
    at = text.rfind("A:")
    for _ in range(TRIES):
        if at < 0:
            break
        if (
            _LINE_START.search(text, max(at - 10, 0), at)
            and not text[at + 2 : at + 3].isalpha()
            and "\nB:" not in text
        ):  # A:B = 1
            found.append(PooledEndpoint(at, at + 2, False))
        at = text.rfind("A:", 0, at)
    return found
