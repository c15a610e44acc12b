r"""Find the final answer in a response: the last box, tag or phrase; else the whole; else the last formula.

Written for text that nobody vouches for: every pass is linear in the text's length, whatever the text holds.
What an answer means is `filters.grade.grader`'s business; here it is only found and freed from its wrapping.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from filters.extract.phrases import announcements
from filters.extract.sentences import JOIN, LATEX_WORDS, SEGMENT, WORD, is_prose, last_expression
from filters.policy import Boxes
from filters.text.normalize import tidy

How = Literal["boxed", "tag", "phrase", "whole", "last"]

PHRASE_LIMIT = 4000  # characters after a phrase: more than any answer that is compared
BETWEEN_BOXES = 60  # characters between two boxes that may belong together


class Answer(NamedTuple):
    text: str
    how: How
    start: int = (
        0  # of the whole statement, box or tag or phrase included, in `after_thought` of the response
    )
    end: int = 0


# Backslash pairs are read as units, so an escaped brace never counts; some models write two before a box.
_BOX_TOKEN = re.compile(
    r"(?P<box>\\{1,2}(?:[a-z]{0,9}boxed|fbox)\s{0,9}\{)|\\boxed\s{1,9}(?P<bare>[^\s${}\\]+)|\\.|[{}]",
    re.DOTALL,
)
_NEW_STEP = re.compile(
    r"[.!?]\s|\n\s*\n|\b(?:therefore|thus|hence|so|then|we|get|adding|which)\b", re.IGNORECASE
)
_BROKEN_LINE = re.compile(r"\\n(?![A-Za-z])")  # a line's end that was escaped on its way
_BEGINS_ANSWER = re.compile(r"[-+$\\(\[{\d]|[A-Za-z]\w?\s?=")
_ANSWER_TAG = re.compile(r"<(/?)(?:answer|solution)>", re.IGNORECASE)
_ENDS = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "</s>",
)
_LEAD = " \t\r\n*_`:=：\"“'「"  # what may stand between the phrase and the answer  # noqa: RUF001
_SENTENCE_END = re.compile(
    r"[.?!](?=\s+[A-Z*(\\\"']|\s*$)|\n|[。।]|입니다|です|,?\s(?:because|since|as|which|where)\s",
    re.IGNORECASE,
)
_ROUNDING = re.compile(
    r",?\s\(?(?:rounded|correct|accurate)\s(?:\w+\s)?to\s(?:the\snearest\s[\w-]+|\w+\s(?:decimal|significant|d\.?p)"
    r"[\w. ]{0,20}?)\)?(?=[.,;\s]|\Z)",
    re.IGNORECASE,
)


def extract(response: str, boxes: Boxes = "join") -> Answer | None:
    """The answer that a response ends on, or None. `how` says how firmly it was stated; "last" is a guess."""
    response = after_thought(response)
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


def after_thought(response: str) -> str:
    """What follows the last closed thought, up to a turn that the model imagined; without "rounded to"."""
    if " to " in response and ("ounded" in response or "orrect to" in response or "ccurate to" in response):
        response = _ROUNDING.sub("", response)
    return without_thought(_BROKEN_LINE.sub("\n", response) if "\\n" in response else response)


def without_thought(response: str) -> str:
    """The same, to the letter: what looks like a line's end that was escaped on its way stays as it is."""
    if "<" not in response:
        return response
    response = (
        response[response.rfind("</think>") + len("</think>") :] if "</think>" in response else response
    )
    for mark in _ENDS:
        end = response.find(mark)
        if end > 0:
            response = response[:end]
    return response


def _boxed(text: str, boxes: Boxes) -> Answer | None:
    """What the last closed box holds; of nested ones the innermost; of several that belong together all."""
    if "boxed" not in text and "fbox" not in text:
        return None
    found = _boxes(text)
    if not found:
        return None
    joined = [found[-1]]
    while boxes == "join" and len(joined) < len(found):
        between = text[found[-len(joined) - 1][1] : joined[0][0]]
        between = between[: between.rfind("\\")]
        if len(between) > BETWEEN_BOXES or not JOIN.search(between) or _NEW_STEP.search(between):
            break
        joined.insert(0, found[-len(joined) - 1])
    answer = ", ".join(dict.fromkeys(text[slice(*span)].strip() for span in joined))
    behind = joined[-1][1]
    place = announcements(text[behind:])
    if place and place[0].final:  # a final answer in words after the last box is the later word
        stated, end = _announced(text, behind + place[0].end)
        if stated and not is_prose(stated) and _BEGINS_ANSWER.match(stated):
            return Answer(stated, "phrase", behind + place[0].start, end)
    start = text.rfind("\\", 0, joined[0][0])
    return Answer(answer, "boxed", start, behind + 1) if answer else None


def _boxes(text: str) -> list[tuple[int, int]]:
    """The spans inside closed boxes that hold no box themselves, in order."""
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
    found = None
    for opening, closing in _tags(text):
        found = Answer(text[opening.end() : closing.start()].strip(), "tag", opening.start(), closing.end())
    return found if found and found.text else None


def in_tags(text: str) -> Iterator[str]:
    """What each closed pair of answer tags holds, in order."""
    for opening, closing in _tags(text):
        yield text[opening.end() : closing.start()]


def _tags(text: str) -> Iterator[tuple[re.Match[str], re.Match[str]]]:
    if "<" not in text:
        return
    opening = None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            opening = tag
        elif opening is not None:
            yield opening, tag
            opening = None


def _phrased(text: str) -> Answer | None:
    """What follows the last "answer is" to the end of the sentence, or on the next line."""
    for place in announcements(text):
        answer, end = _announced(text, place.end)
        if answer:
            return Answer(answer, "phrase", place.start, end)
    return None


def _announced(text: str, start: int) -> tuple[str, int]:
    """What is announced, and where that ends."""
    rest = text[start : start + PHRASE_LIMIT]
    bare = rest.lstrip(_LEAD)
    start += len(rest) - len(bare)
    if bare.startswith(("$$", r"\[")) and (display := SEGMENT.match(bare)):
        return tidy(display[0]), start + display.end()
    said = _SENTENCE_END.split(bare, maxsplit=1)[0]
    return tidy(said).strip("\"“”'"), start + len(said)


def _whole(text: str) -> str | None:
    """The text where it is no prose; however long, for the last number of a formula is not its value."""
    text = tidy(text)
    if "\n" in text or is_prose(text):
        return None
    before = re.split(r"\$|\\\(|\\\[", text, maxsplit=1)
    return None if len(before) > 1 and WORD.search(LATEX_WORDS.sub(" ", before[0])) else text
