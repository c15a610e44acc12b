r"""Find the final answer in a response: the last box, tag or phrase; else the whole; else the last formula.

Written for text that nobody vouches for: every pass is linear in the text's length, whatever the text holds.
What an answer means is `filters.verify`'s business; here it is only found and freed from its wrapping.
"""

from __future__ import annotations

import itertools
import re
from typing import Literal, NamedTuple

from filters.expressions import expression_at
from filters.fold import tidy
from filters.phrases import announcements
from filters.policy import Boxes

How = Literal["boxed", "tag", "phrase", "whole", "last"]

WHOLE_WORDS = 3  # words, LaTeX commands aside, of a response that is nothing but its answer
PHRASE_LIMIT = 4000  # characters after a phrase: more than any answer that is compared
BETWEEN_BOXES = 60  # characters between two boxes that may belong together


class Answer(NamedTuple):
    text: str
    how: How


# Backslash pairs are read as units, so an escaped brace never counts; some models write two before a box.
_BOX_TOKEN = re.compile(
    r"(?P<box>\\{1,2}(?:[a-z]{0,9}boxed|fbox)\s{0,9}\{)|\\boxed\s{1,9}(?P<bare>[^\s${}\\]+)|\\.|[{}]",
    re.DOTALL,
)
# What stands between two boxes that are one answer: its last word is "and", "or" or a comma.
_JOIN = re.compile(
    r"(?:(?<![^\W\d_])(?:and|or|und|oder|et|ou|y|&)|[和或,;、])(?:[\s}$\\()\[\]]|quad|qquad)*"
    r"(?:[a-z](?:_\w|_\{\w\})?\s?=\s?)?\Z",  # x = \boxed{1} and y = \boxed{2}
    re.IGNORECASE,
)
_BROKEN_LINE = re.compile(r"\\n(?![A-Za-z])")  # a line's end that was escaped on its way
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_LEAD = " \t\r\n*_`:=：\"“'"  # what may stand between the phrase and the answer  # noqa: RUF001
_SENTENCE_END = re.compile(
    r"[.?!](?=\s+[A-Z*(\\\"']|\s*$)|\n|。|입니다|です|,?\s(?:because|since|as|which|where)\s", re.IGNORECASE
)
_NUMBER = re.compile(r"(?:(?<![\w.)}])[-−])?\d[\d,]*(?:\.\d+)?(?:/\d+(?!\d|\.\d))?%?")  # noqa: RUF001
_NUMBER_TAIL = 400  # characters at the end that nearly always hold the last number
_SEGMENT = re.compile(r"\$\$([^$]+)\$\$|\$((?:[^$\\]|\\.)+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SEGMENT_LIMIT = 2000  # characters at the end in which the last formula is looked for
_MONEY = re.compile(r"[$€£¥]\s?(\d[\d,]*(?:\.\d+)?)|(\d[\d,]*(?:\.\d+)?)\s?[$€£¥]")
_LATEX_WORDS = re.compile(r"\\[A-Za-z]+(?:\{(?:p|b|v|B|V)?(?:matrix|cases|array|aligned)\})?")
_WORD = re.compile(r"(?<![^\W\d_])(?!(?:and|or)\b)[^\W\d_]{2,}")
_LONG_WORD = re.compile(r"[^\W\d_]{3,}")
_UNPARTED = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")  # kana, Han, Hangul
_DIGIT = re.compile(r"\d")
_IN_TEXT = re.compile(r"\\(?:text|mathrm|mbox)[a-z]*\s?\{[^{}]*\}")
_NEGATION = re.compile(r"\b(?:not|no|never|isn't|cannot|can't|nicht|pas)\b|不", re.IGNORECASE)
# What stands beside a number and makes it another: less than 4, 4 squared, 4 or 5.
_CHANGED_BEFORE = re.compile(
    r"(?:\b(?:than|least|most|under|over|above|below|between|minus|negative|plus|exceeds?|up to|or)"
    r"|[<>≤≥+*/^_\\|])\s*$",
    re.IGNORECASE,
)
_CHANGED_AFTER = re.compile(
    r"\s*(?:(?:squared|cubed|times|or|hundred|thousand|million|billion|trillion|dozen|percent|more|less|fewer)\b"
    r"|[<>≤≥+*/^=!_|])",
    re.IGNORECASE,
)
_ALTERNATIVE = re.compile(r"\bor\s*\Z")  # "this or 4" states neither
_COPULA = re.compile(r"\s(?:is|are|equals|ist|est|es|是|为)\b:?|[是为]")


def extract(response: str, boxes: Boxes = "join") -> Answer | None:
    """The answer that a response ends on, or None. `how` says how firmly it was stated; "last" is a guess."""
    response = after_thought(response)
    stated = _boxed(response, boxes) or _tagged(response) or _phrased(response)
    if stated:
        return stated
    if whole := _whole(response):
        return Answer(whole, "whole")
    last = _last(response)
    return Answer(last, "last") if last else None


def after_thought(response: str) -> str:
    """What follows the last closed thought, up to a turn that the model imagined."""
    return without_thought(_BROKEN_LINE.sub("\n", response) if "\\n" in response else response)


def without_thought(response: str) -> str:
    """The same, to the letter: what looks like a line's end that was escaped on its way stays as it is."""
    if "<" not in response:
        return response
    response = (
        response[response.rfind("</think>") + len("</think>") :] if "</think>" in response else response
    )
    for mark in ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>"):
        end = response.find(mark)
        if end > 0:
            response = response[:end]
    return response


def is_prose(text: str) -> bool:
    """More words than an answer has; of a writing that does not part words, as many letters and a number."""
    if _more_than(WHOLE_WORDS, _WORD, _LATEX_WORDS.sub(" ", text) if "\\" in text else text):
        return True
    return not text.isascii() and _more_than(WHOLE_WORDS, _UNPARTED, text) and bool(_DIGIT.search(text))


def _more_than(count: int, pattern: re.Pattern[str], text: str) -> bool:
    return len(list(itertools.islice(pattern.finditer(text), count + 1))) > count


def in_prose(text: str) -> str | None:
    """The formula or number that a sentence is about: after "is", else the last formula, money, last number.

    None where it denies something.
    """
    if _NEGATION.search(text):
        return None
    copula = _COPULA.search(text)
    if copula and not any(mark in text[: copula.start()] for mark in "=<>"):
        rest = tidy(text[copula.end() :])
        if rest and not is_prose(rest):
            return rest
    if segments := _SEGMENT.findall(text[-_SEGMENT_LIMIT:]):
        return tidy("".join(segments[-1]))
    if money := _MONEY.findall(text):
        return "".join(money[-1])
    number = _last_number_span(text)
    if number is None:
        return None
    span = expression_at(text, number)
    if _CHANGED_BEFORE.search(text[: span[0]][-20:]) or _CHANGED_AFTER.match(text, span[1]):
        return None
    return text[slice(*span)].rstrip(",")


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
        if len(between) > BETWEEN_BOXES or not _JOIN.search(between):
            break
        joined.insert(0, found[-len(joined) - 1])
    answer = ", ".join(dict.fromkeys(text[slice(*span)].strip() for span in joined))
    place = announcements(text[joined[-1][1] :])
    if place and place[0].final:  # a final answer in words after the last box is the later word
        stated = _announced(text[joined[-1][1] :], place[0].end)
        if stated and not is_prose(stated) and re.search(r"\d|\\|\$", stated):
            return Answer(stated, "phrase")
    return Answer(answer, "boxed") if answer else None


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
    start, found = None, None
    if "<" not in text:
        return None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            found, start = text[start : tag.start()].strip(), None
    return Answer(found, "tag") if found else None


def _phrased(text: str) -> Answer | None:
    """What follows the last "answer is" to the end of the sentence, or on the next line."""
    for place in announcements(text):
        answer = _announced(text, place.end)
        if answer:
            return Answer(answer, "phrase")
    return None


def _announced(text: str, start: int) -> str:
    rest = text[start : start + PHRASE_LIMIT].lstrip(_LEAD)
    if rest.startswith(("$$", r"\[")) and (display := _SEGMENT.match(rest)):
        return tidy(display[0])
    return tidy(_SENTENCE_END.split(rest, maxsplit=1)[0]).strip("\"“”'")


def _whole(text: str) -> str | None:
    """The text where it is no prose; however long, for the last number of a formula is not its value."""
    text = tidy(text)
    if "\n" in text or is_prose(text):
        return None
    before = re.split(r"\$|\\\(|\\\[", text, maxsplit=1)
    return None if len(before) > 1 and _WORD.search(_LATEX_WORDS.sub(" ", before[0])) else text


def _last(text: str) -> str | None:
    """The last number with the expression that it is part of; a formula that follows it, or holds it."""
    number = _last_number_span(text)
    if "$" in text or "\\" in text:
        formulas = _formulas(text)
        if formulas and (number is None or formulas[-1].end() > number[0]):
            return ", ".join(tidy(formula[formula.lastindex or 0]) for formula in formulas)
    if number is None:
        return None
    start, end = expression_at(text, number)
    return None if _ALTERNATIVE.search(text, max(start - 5, 0), start) else text[start:end].rstrip(",")


def _formulas(text: str) -> list[re.Match[str]]:
    """The last formula of a text, and those before it that only "and", "or" or a comma parts from it."""
    found: list[re.Match[str]] = []
    for formula in _SEGMENT.finditer(text, max(len(text) - _SEGMENT_LIMIT, 0)):
        if len(_LONG_WORD.findall(_LATEX_WORDS.sub(" ", _IN_TEXT.sub(" ", formula[0])))) > 1:
            continue  # what stands between two sums of money
        if found and not _JOIN.fullmatch(text[found[-1].end() : formula.start()].strip()):
            found = []
        found.append(formula)
    return found


def _last_number_span(text: str) -> tuple[int, int] | None:
    for start in (max(len(text) - _NUMBER_TAIL, 0), 0):
        last = None
        for number in _NUMBER.finditer(text, start):
            last = number
        if last and (start == 0 or last.start() > start + 60):  # not one that the cut went through
            return last.span()
    return None
