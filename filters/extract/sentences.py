"""What a sentence is about, where nothing announces it: its formula, or its last number.

For `filters.extract.answer`, which looks here last, and for answers that were stated in a sentence. Linear
time.
"""

from __future__ import annotations

import itertools
import re

from filters.extract.expressions import expression_at
from filters.text.normalize import tidy
from filters.text.qualifiers import changed

WHOLE_WORDS = 3  # words, LaTeX commands aside, of a response that is nothing but its answer
# What stands between two boxes that are one answer: its last word is "and", "or" or a comma.
JOIN = re.compile(
    r"(?:(?<![^\W\d_])(?:and|or|und|oder|et|ou|y|&)|[和或,;、])(?:[\s}$\\()\[\]]|quad|qquad)*"
    r"(?:[a-z](?:_\w|_\{\w\})?\s?=\s?)?\Z",  # x = \boxed{1} and y = \boxed{2}
    re.IGNORECASE,
)
_NUMBER = re.compile(r"(?:(?<![\w.)}])[-−])?\d[\d,]*(?:\.\d+)?(?:/\d+(?!\d|\.\d))?%?")  # noqa: RUF001
_NUMBER_TAIL = 400  # characters at the end that nearly always hold the last number
SEGMENT = re.compile(r"\$\$([^$]+)\$\$|\$((?:[^$\\]|\\.)+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SEGMENT_LIMIT = 2000  # characters at the end in which the last formula is looked for
_MONEY = re.compile(r"[$€£¥]\s?\d[\d,]*(?:\.\d+)?|\d[\d,]*(?:\.\d+)?\s?[$€£¥]")
LATEX_WORDS = re.compile(r"\\[A-Za-z]+(?:\{(?:p|b|v|B|V)?(?:matrix|cases|array|aligned)\})?")
WORD = re.compile(r"(?<![^\W\d_])(?!(?:and|or)\b)[^\W\d_]{2,}")
_LONG_WORD = re.compile(r"[^\W\d_]{3,}")
_UNPARTED = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")  # kana, Han, Hangul
_DIGIT = re.compile(r"\d")
_IN_TEXT = re.compile(r"\\(?:text|mathrm|mbox)[a-z]*\s?\{[^{}]*\}")
# What stands beside a number and makes it another: less than 4, 4 squared, 4 or 5.
_CHANGED_BEFORE = re.compile(
    r"(?:\b(?:than|least|most|under|over|above|below|between|minus|negative|plus|exceeds?|up to|or|twice"
    r"|double|triple|times|(?:half|third|quarter|fourth|fifth|root|multiple|square|cube|negative|inverse|reciprocal"
    r"|percent|out) of|divi(?:ded|sible) by|multiplied by|power|modulo|mod|remainder|except|without|to the)"
    r"|[<>≤≥+*/^_\\|])\s*$",
    re.IGNORECASE,
)
# Of a short text with one more word: factors of 7, from 3 to 5; but a total of 7, equal to 5.
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
# What may stand directly before the number that a sentence is about, where no "is" does.
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
    """More words than an answer has; of a writing that does not part words, as many letters and a number."""
    if _more_than(WHOLE_WORDS, WORD, LATEX_WORDS.sub(" ", text) if "\\" in text else text):
        return True
    return not text.isascii() and _more_than(WHOLE_WORDS, _UNPARTED, text) and bool(_DIGIT.search(text))


def _more_than(count: int, pattern: re.Pattern[str], text: str) -> bool:
    return len(list(itertools.islice(pattern.finditer(text), count + 1))) > count


def in_prose(text: str) -> str | None:
    """The formula or number that a sentence is about: after "is", else the last formula, money, last number.

    None where it denies something.
    """
    if changed(text):
        return None
    if (first := _NUMBER.match(text)) and _REASON.match(text, (span := expression_at(text, first.span()))[1]):
        return text[slice(*span)]
    copula = _COPULA.search(text)
    if copula and not any(mark in text[: copula.start()] for mark in "=<>"):
        rest = tidy(text[copula.end() :])
        if rest and not is_prose(rest):
            return rest
    if segments := SEGMENT.findall(text[-_SEGMENT_LIMIT:]):
        return tidy("".join(segments[-1]))
    if money := _MONEY.findall(text):
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
    """The last number with the expression that it is part of; a formula that follows it, or holds it."""
    number = _last_number_span(text)
    if "$" in text or "\\" in text:
        formulas = _formulas(text)
        if formulas and (number is None or formulas[-1].end() > number[0]):
            return ", ".join(tidy(formula[formula.lastindex or 0]) for formula in formulas)
    if number is None:
        return None
    start, end = expression_at(text, number)
    before = text[max(start - 60, 0) : start]
    if _ALTERNATIVE.search(before) or _DENIED.search(before) or _DENIED_AFTER.match(text, end):
        return None
    return text[start:end].rstrip(",")


def _formulas(text: str) -> list[re.Match[str]]:
    """The last formula of a text, and those before it that only "and", "or" or a comma parts from it."""
    found: list[re.Match[str]] = []
    for formula in SEGMENT.finditer(text, max(len(text) - _SEGMENT_LIMIT, 0)):
        if len(_LONG_WORD.findall(LATEX_WORDS.sub(" ", _IN_TEXT.sub(" ", formula[0])))) > 1:
            continue  # what stands between two sums of money
        if found and not JOIN.fullmatch(text[found[-1].end() : formula.start()].strip()):
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
