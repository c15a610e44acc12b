"""Finds the value that a sentence states without announcing it: its formula, or its last number.

`filters.extract.answer` uses this as its last resort. All functions take linear time.
"""

from __future__ import annotations

import re

from filters.extract.expressions import expression_at
from filters.text.normalize import strip_markup
from filters.text.qualifiers import is_changed

MAX_ANSWER_WORDS = 3  # in a bare answer, LaTeX commands aside; a text with more is prose
# Between two boxes that form one answer. The last word is "and", "or" or a comma.
JOIN = re.compile(
    r"(?:(?<![^\W\d_])(?:and|or|und|oder|et|ou|y|&)|[和或,;、])(?:[\s}$\\()\[\]]|quad|qquad)*"
    r"(?:[a-z](?:_\w|_\{\w\})?\s?=\s?)?\Z",  # x = \boxed{1} and y = \boxed{2}
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?:(?<![\w.)}])[-−])?\d[\d,]*(?:\.\d+)?(?:/\d+(?!\d|\.\d))?%?")  # noqa: RUF001
_NUMBER_TAIL = 400  # characters at the end that nearly always contain the last number
SEGMENT = re.compile(r"\$\$([^$]+)\$\$|\$((?:[^$\\]|\\.)+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SEGMENT_LIMIT = 2000  # characters at the end that are searched for the last formula
_MONEY = re.compile(r"[$€£¥]\s?\d[\d,]*(?:\.\d+)?|\d[\d,]*(?:\.\d+)?\s?[$€£¥]")
LATEX_WORDS = re.compile(r"\\[A-Za-z]+(?:\{(?:p|b|v|B|V)?(?:matrix|cases|array|aligned)\})?")
WORD = re.compile(r"(?<![^\W\d_])(?!(?:and|or)\b)[^\W\d_]{2,}")
_LONG_WORD = re.compile(r"[^\W\d_]{3,}")
_CJK = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")  # kana, Han, Hangul
_DIGIT = re.compile(r"\d")
_IN_TEXT = re.compile(r"\\(?:text|mathrm|mbox)[a-z]*\s?\{[^{}]*\}")
# Words next to a number that change it: less than 4, 4 squared, 4 or 5.
_CHANGED_BEFORE = re.compile(
    r"(?:\b(?:than|least|most|under|over|above|below|between|minus|negative|plus|exceeds?|up to|or|twice"
    r"|double|triple|times|(?:half|third|quarter|fourth|fifth|root|multiple|square|cube|negative|inverse|reciprocal"
    r"|percent|out) of|divi(?:ded|sible) by|multiplied by|power|modulo|mod|remainder|except|without|to the)"
    r"|[<>≤≥+*/^_\\|])\s*$",
    re.IGNORECASE,
)
# Words that make a number a part of something: factors of 7, from 3 to 5. But: a total of 7, equal to 5.
_PART_OF = re.compile(
    r"(?<!total )(?<!sum )(?<!value )(?<!number )\b(?:of|from|through|per|by|in)\s*$"
    r"|(?<!equal )(?<!comes )\bto\s*$"
)
_REASON = re.compile(r",?\s(?:for|when|if|where|obtained|because|since|as|by)\b|\s\((?=[a-z])")
_CHANGED_AFTER = re.compile(
    r"\s*(?:(?:squared|cubed|times|or|hundred|thousand|[mb]illion|trillion|quadrillion|lakh|crore|bn|mil|gross"
    r"|dozen|percent|more|less|fewer|tens|below|above|out of|remainder|to the|in base|divided|multiplied"
    r"|halves|thirds?|quarters?|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|\w+teen|\w+tie)ths?)\b"
    r"|[十百千万萬亿億成折](?![米克])|分之"
    r"|[<>≤≥+*/^=!_|])",
    re.IGNORECASE,
)
# Words that may precede the value of a sentence directly, other than "is".
_LEADS = re.compile(
    r"(?:\A|[^\w\s]|(?<![^\W\d_])(?:is|are|was|were|be|been|equals?|get|gets|got|gives?|has|have|had|makes?|made|costs?"
    r"|sold|spent|paid|pays?|needs?|takes?|took|left|bought|earns?|received?|there|total|only|just|exactly|precisely|simply"
    r"|namely|the|a|an|so|thus|hence|therefore|then|and|answer|result|value|number|equal to|comes to"
    r"|amounts to|that|of|\w{3,}ed|[a-z]))\s*[$\\({\[*]*\Z",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:cannot|can't|never|isn't|is not|not be|except|unless)\b(?:\s(?!which|it|but)\w+){0,2}\s*\Z",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(r"\s+(?:is not|isn't|cannot be)\b")
_ALTERNATIVE = re.compile(r"\bor\s*\Z")  # "this or 4" states neither
_COPULA = re.compile(r"\s(?:is|are|equals|ist|est|es|是|为)\b:?|[是为]")


def is_prose(text: str) -> bool:
    """Whether a text has more words than an answer, or as many CJK characters and a number."""
    if _too_many(WORD, LATEX_WORDS.sub(" ", text) if "\\" in text else text):
        return True
    return not text.isascii() and _too_many(_CJK, text) and bool(_DIGIT.search(text))


def _too_many(word: re.Pattern[str], text: str) -> bool:
    return any(n >= MAX_ANSWER_WORDS for n, _ in enumerate(word.finditer(text)))


def expression_in_sentence(text: str) -> str | None:
    """Returns the value that a sentence states: after "is", else its last formula, amount of money or number.

    Returns None if the sentence denies something.
    """
    if is_changed(text):
        return None
    if (first := _NUMBER.match(text)) and _REASON.match(text, (span := expression_at(text, first.span()))[1]):
        return text[slice(*span)]
    copula = _COPULA.search(text)
    if copula and not any(mark in text[: copula.start()] for mark in "=<>"):
        rest = strip_markup(text[copula.end() :])
        if rest and not is_prose(rest):
            return rest
    if segments := SEGMENT.findall(text[-_SEGMENT_LIMIT:]):
        return strip_markup("".join(segments[-1]))
    money: list[str] = _MONEY.findall(text)
    if money:
        return money[-1]
    number = _last_number_span(text)
    if number is None:
        return None
    span = expression_at(text, number)
    before = text[: span[0]][-20:]
    if not _LEADS.search(before):
        return None
    if _CHANGED_BEFORE.search(before) or _PART_OF.search(before) or _CHANGED_AFTER.match(text, span[1]):
        return None
    return text[slice(*span)].rstrip(",")


def last_expression(text: str) -> str | None:
    """Returns the expression around the last number, or a formula that follows or contains the number."""
    number = _last_number_span(text)
    if "$" in text or "\\" in text:
        formulas = _formulas(text)
        if formulas and (number is None or formulas[-1].end() > number[0]):
            return ", ".join(strip_markup(formula[formula.lastindex or 0]) for formula in formulas)
    if number is None:
        return None
    start, end = expression_at(text, number)
    before = text[max(start - 60, 0) : start]
    if _ALTERNATIVE.search(before) or _DENIED.search(before) or _DENIED_AFTER.match(text, end):
        return None
    if "." in text[start:end] and text.startswith("...", end):
        end += 3
    return text[start:end].rstrip(",")


def _formulas(text: str) -> list[re.Match[str]]:
    """Returns the last formula, with those before it that "and", "or" or a comma joins to it."""
    found: list[re.Match[str]] = []
    for formula in SEGMENT.finditer(text, max(len(text) - _SEGMENT_LIMIT, 0)):
        if len(_LONG_WORD.findall(LATEX_WORDS.sub(" ", _IN_TEXT.sub(" ", formula[0])))) > 1:
            continue  # the words between two amounts of money
        if found and not JOIN.fullmatch(text[found[-1].end() : formula.start()].strip()):
            found = []
        found.append(formula)
    return found


def _last_number_span(text: str) -> tuple[int, int] | None:
    for start in (max(len(text) - _NUMBER_TAIL, 0), 0):
        last = None
        for number in _NUMBER.finditer(text, start):
            last = number
        if last and (start == 0 or last.start() > start + 60):  # not a number that starts before the tail
            return last.span()
    return None
