r"""Finds the final answer in a response and removes its wrapping.

In order of preference: the last box, tag or phrase; the whole response; the last formula or number. Every
pass takes linear time, whatever an untrusted text contains.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from filters.extract.phrases import announcements
from filters.extract.sentences import JOIN, LATEX_WORDS, SEGMENT, WORD, is_prose, last_expression
from filters.policy import Boxes
from filters.text.normalize import ESCAPED_NEWLINE, strip_markup

How = Literal["boxed", "tag", "phrase", "whole", "last"]

PHRASE_LIMIT = 4000  # characters read after a phrase, more than any answer that is compared
MAX_BOX_GAP = 60  # characters between two boxes that may form one answer


class Answer(NamedTuple):
    text: str
    how: How  # "last" is a guess
    start: int = 0  # of the statement with its box, tag or phrase, in `after_reasoning(response)`
    end: int = 0


# Reads backslash pairs together, so an escaped brace never counts. Some models write two before a box.
_BOX_TOKEN = re.compile(
    r"(?P<box>\\{1,2}(?:[a-z]{0,9}boxed|fbox)\s{0,9}\{)|\\boxed\s{1,9}(?P<bare>[^\s${}\\]+)|\\.|[{}]",
    re.DOTALL,
)
_NEW_STEP = re.compile(
    r"[.!?]\s|\n\s*\n|\b(?:therefore|thus|hence|so|then|we|get|adding|which)\b", re.IGNORECASE
)
_STARTS_ANSWER = re.compile(r"[-+$\\(\[{\d]|[A-Za-z]\w?\s?=")
_ANSWER_TAG = re.compile(r"<(/?)(?:answer|solution)>", re.IGNORECASE)
_END_MARKS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>"]
_END_MARKS += ["<end_of_turn>", "</s>"]
_LEAD = " \t\r\n*_`:=：\"“'「"  # may stand between the phrase and the answer  # noqa: RUF001
_SENTENCE_END = re.compile(
    r"(?<!\.\.)[.?!](?=\s+[A-Z*(\\\"']|\s*$)|\n|[。।]|입니다|です|,?\s(?:because|since|as|which|where)\s",
    re.IGNORECASE,
)
_ROUNDING = re.compile(
    r",?\s\(?(?:rounded|correct|accurate)\s(?:\w+\s)?to\s(?:the\snearest\s[\w-]+|\w+\s(?:decimal|significant|d\.?p)"
    r"[\w. ]{0,20}?)\)?(?=[.,;\s]|\Z)",
    re.IGNORECASE,
)


def extract(response: str, boxes: Boxes = "join") -> Answer | None:
    """Returns the final answer of a response, None if it has none."""
    response = after_reasoning(response)
    stated = _boxed(response, boxes) or _tagged(response) or _phrased(response)
    if stated:
        return stated
    if whole := _whole(response):
        return Answer(whole, "whole", 0, len(response))
    last = last_expression(response)
    if not last:
        return None
    at = max(response.rfind(last), 0)
    return Answer(last, "last", at, at + len(last))


def after_reasoning(response: str) -> str:
    """Returns `strip_reasoning(response)` without remarks on rounding and with escaped newlines decoded."""
    if " to " in response and ("ounded" in response or "orrect to" in response or "ccurate to" in response):
        response = _ROUNDING.sub("", response)
    return strip_reasoning(ESCAPED_NEWLINE.sub("\n", response))


def strip_reasoning(response: str) -> str:
    """Returns the text after the last `</think>`, up to the end of the turn."""
    response = response.rpartition("</think>")[2]
    ends = [end for mark in _END_MARKS if (end := response.find(mark)) > 0]
    return response[: min(ends, default=len(response))]


def _boxed(text: str, boxes: Boxes) -> Answer | None:
    """Returns the text of the last closed box: the innermost of nested boxes, or several boxes joined."""
    found = _boxes(text) if "boxed" in text or "fbox" in text else []
    if not found:
        return None
    joined = [found[-1]]
    while boxes == "join" and len(joined) < len(found):
        between = text[found[-len(joined) - 1][1] : joined[0][0]]
        between = between[: between.rfind("\\")]
        if len(between) > MAX_BOX_GAP or not JOIN.search(between) or _NEW_STEP.search(between):
            break
        joined.insert(0, found[-len(joined) - 1])
    answer = ", ".join(dict.fromkeys(text[slice(*span)].strip() for span in joined))
    box_end = joined[-1][1]
    later = announcements(text[box_end:])
    if later and later[0].final:  # a "final answer" in words after the last box takes precedence
        stated, end = _announced(text, box_end + later[0].end)
        if stated and not is_prose(stated) and _STARTS_ANSWER.match(stated):
            return Answer(stated, "phrase", box_end + later[0].start, end)
    start = text.rfind("\\", 0, joined[0][0])
    return Answer(answer, "boxed", start, box_end + 1) if answer else None


def _boxes(text: str) -> list[tuple[int, int]]:
    """Returns the spans inside closed boxes that contain no other box, in order."""
    open_at: list[int | None] = []  # where a box's text starts; None for an ordinary brace
    found: list[tuple[int, int]] = []
    for token in _BOX_TOKEN.finditer(text):
        if token["box"]:
            open_at.append(token.end())
        elif token["bare"]:
            found.append(token.span("bare"))
        elif token[0] == "{":
            open_at.append(None)
        elif token[0] == "}" and open_at:
            start = open_at.pop()
            if start is not None and (not found or start > found[-1][0]):
                found.append((start, token.start()))
    return found


def _tagged(text: str) -> Answer | None:
    found = list(in_tags(text))
    return found[-1] if found and found[-1].text else None


def in_tags(text: str) -> Iterator[Answer]:
    """Yields the text inside each closed pair of answer tags, in order."""
    opening = None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            opening = tag
        elif opening is not None:
            yield Answer(text[opening.end() : tag.start()].strip(), "tag", opening.start(), tag.end())
            opening = None


def _phrased(text: str) -> Answer | None:
    """Returns the rest of the sentence after the last "answer is", or the next line."""
    for phrase in announcements(text):
        answer, end = _announced(text, phrase.end)
        if answer:
            return Answer(answer, "phrase", phrase.start, end)
    return None


def _announced(text: str, start: int) -> tuple[str, int]:
    """Returns the answer that a phrase announces, and its end."""
    rest = text[start : start + PHRASE_LIMIT]
    bare = rest.lstrip(_LEAD)
    start += len(rest) - len(bare)
    if bare.startswith(("$$", r"\[")) and (display := SEGMENT.match(bare)):
        return strip_markup(display[0]), start + display.end()
    sentence = _SENTENCE_END.split(bare, maxsplit=1)[0]
    return strip_markup(sentence).strip("\"“”'"), start + len(sentence)


def _whole(text: str) -> str | None:
    """Returns the whole text unless it is prose. The last number of a long formula is not its value."""
    text = strip_markup(text)
    if "\n" in text or is_prose(text):
        return None
    before = re.split(r"\$|\\\(|\\\[", text, maxsplit=1)
    return None if len(before) > 1 and WORD.search(LATEX_WORDS.sub(" ", before[0])) else text
