r"""Find the final answer in a response: the last box, tag or phrase; else the whole; else the last number.

Written for text that nobody vouches for: every pass is linear in the text's length, whatever the text holds.
What an answer means is `filters.verify`'s business; here it is only found and freed from its wrapping.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

How = Literal["boxed", "tag", "phrase", "whole", "last"]

WHOLE_LIMIT = 300  # characters of a response that is nothing but its answer
PHRASE_LIMIT = 4000  # characters after a phrase: more than any answer that is compared
WHOLE_WORDS = 3  # and words in it, LaTeX commands aside


class Answer(NamedTuple):
    text: str
    how: How


# Backslash pairs are read as units, so an escaped brace never counts; some models write two before a box.
_BOX_TOKEN = re.compile(
    r"(?P<box>\\{1,2}(?:boxed|fbox)\s{0,9}\{)|\\boxed\s{1,9}(?P<bare>[^\s${}\\]+)|\\.|[{}]", re.DOTALL
)
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_PHRASE = re.compile(
    r"####"  # how GSM8K ends
    r"|^[ \t*]{0,9}(?-i:A):"
    r"|\banswer(?:[ \t]+(?:to|of|for)\b[^\n.:=]{0,40})?[ \t*_]{0,9}(?::|=|\bis\b|\bwould be\b|\bwill be\b)",
    re.IGNORECASE | re.MULTILINE,
)
_LEAD = " \t\r\n*_`:="  # what may stand between the phrase and the answer
_SENTENCE_END = re.compile(r"[.?](?=\s+[A-Z*(\\])|\n|,?\s(?:because|since|as|which|where)\s", re.IGNORECASE)
_NUMBER = re.compile(r"(?:(?<![\w.)}])[-−])?\d[\d,]*(?:\.\d+)?(?:/\d+(?![\d.]))?%?")  # noqa: RUF001
_WRAPPINGS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))
_LATEX_WORDS = re.compile(r"\\[A-Za-z]+(?:\{(?:p|b|v|B|V)?(?:matrix|cases|array|aligned)\})?")
_WORD = re.compile(r"[^\W\d_]{2,}")


def extract(response: str) -> Answer | None:
    """The answer that a response ends on, or None. `how` says how firmly it was stated; "last" is a guess."""
    for how, find in _FINDERS:
        text = find(response)
        if text:
            return Answer(text, how)
    return None


def tidy(text: str) -> str:
    r"""The text without what merely wraps it: spaces, bold, `$`, \( \), \[ \], a trailing stop."""
    for _ in range(3):  # wrappings nest a little: **\(7\)**.
        text = text.strip(" \t\r\n*`").rstrip(".,;:\\")  # not "!": 5! is 120
        if not text.startswith(("$", "\\")):
            break
        for left, right in _WRAPPINGS:
            inner = text[len(left) : -len(right)]
            if text.startswith(left) and text.endswith(right) and left not in inner:
                text = inner
    return text.strip()


def _boxed(text: str) -> str | None:
    r"""What the last closed \boxed{...} or \fbox{...} holds; of nested ones the innermost."""
    open_at: list[int | None] = []  # where a box's text starts; None for an ordinary brace
    last: tuple[int, int] | None = None
    for token in _BOX_TOKEN.finditer(text):
        if token["box"]:
            open_at.append(token.end())
        elif token["bare"]:
            last = token.span("bare")
        elif token[0] == "{":
            open_at.append(None)
        elif token[0] == "}" and open_at:
            start = open_at.pop()
            if start is not None and (last is None or start > last[0]):
                last = start, token.start()
    return text[slice(*last)].strip() if last else None


def _tagged(text: str) -> str | None:
    start, found = None, None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            found, start = text[start : tag.start()].strip(), None
    return found


def _phrased(text: str) -> str | None:
    """What follows the last "answer is" to the end of the sentence, or on the next line."""
    for phrase in reversed(list(_PHRASE.finditer(text))[-3:]):
        rest = text[phrase.end() : phrase.end() + PHRASE_LIMIT].lstrip(_LEAD)
        answer = tidy(_SENTENCE_END.split(rest, maxsplit=1)[0])
        if answer:
            return answer
    return None


def _whole(text: str) -> str | None:
    if len(text) > 4 * WHOLE_LIMIT:
        return None
    text = tidy(text)
    words = len(_WORD.findall(_LATEX_WORDS.sub(" ", text)))
    return text if len(text) <= WHOLE_LIMIT and "\n" not in text and words <= WHOLE_WORDS else None


def _last_number(text: str) -> str | None:
    """The last number; where it stands inside $...$, all of that, for it may be a part of a formula."""
    last = None
    for number in _NUMBER.finditer(text):
        last = number
    if last is None:
        return None
    opened, closed = text.rfind("$", 0, last.start()), text.find("$", last.end())
    if closed >= 0 and text.count("$", 0, last.start()) % 2:
        return tidy(text[opened + 1 : closed])
    return last[0].rstrip(",")


_FINDERS: tuple[tuple[How, Callable[[str], str | None]], ...] = (
    ("boxed", _boxed),
    ("tag", _tagged),
    ("phrase", _phrased),
    ("whole", _whole),
    ("last", _last_number),
)
