r"""Plain answers: one spelling for a text, and exact reading of numbers, fractions and quantities.

Pure and cheap: no answer can make it slow. It speaks only of what it reads whole; percent, roots, sets and
formulas are left to math-verify.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from filters.answers import tidy

DIGITS = 50  # of a number, and the size of its exponent; longer ones are not plain
NUMBER_LIMIT = 200  # characters of a text that may be one number


class Quantity(NamedTuple):
    value: Decimal | Fraction  # a Decimal where it was written as one
    unit: str  # "" for a bare number


_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|textnormal|mathrm|mbox)\s?\{([^{}]*)\}")
_SPELLINGS = (
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\[,;: ]|~|\\quad"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\^\s?\{?\s?\\circ\s?\}?|°|\\degree"), " degrees"),
    (re.compile(r"\\?\$"), ""),
    (_LATEX_TEXT, r" \1 "),
)


def fold(text: str) -> str:
    """One spelling for texts that differ in form alone: characters, spacing, dollars, a plus sign."""
    text = fold_characters(tidy(text))
    for pattern, spelling in _SPELLINGS:
        text = pattern.sub(spelling, text)
    return tidy(" ".join(text.split())).removeprefix("+").strip()


def fold_text(text: str) -> str:
    """The same for words, where case does not count."""
    return fold(text).casefold()


def fold_characters(text: str) -> str:
    """NFKC and ASCII digits, but 2² is not 22, 1½ is not 11/2, and characters that nobody sees go."""
    return text if text.isascii() else "".join(map(_fold_character, text))


def _fold_character(c: str) -> str:
    if c.isdecimal():
        return str(unicodedata.decimal(c))
    kind = unicodedata.decomposition(c).partition(" ")[0]
    if kind == "<super>":
        return "^" + unicodedata.normalize("NFKC", c)
    if kind == "<fraction>":
        return " " + unicodedata.normalize("NFKC", c).replace("\N{FRACTION SLASH}", "/")
    if c == "\N{MINUS SIGN}":
        return "-"
    return "" if unicodedata.category(c) == "Cf" else unicodedata.normalize("NFKC", c)


def compare(gold: str, given: str) -> bool | None:
    """Whether two folded texts say the same; None where that is not plain.

    Not plain: either is more than a number; two units differ, which may be two names of one; a decimal stands
    beside a fraction that it may be the rounding of.
    """
    gold, given = _without_name(gold, given)
    if gold == given:
        return True
    a, b = read_quantity(gold), read_quantity(given)
    if a is None or b is None or (a.unit and b.unit and a.unit != b.unit):
        return None
    if a.value == b.value:
        return True
    return False if isinstance(a.value, Fraction) == isinstance(b.value, Fraction) else None


_NAMED = re.compile(r"([A-Za-z])\s?=\s?([^=<>]+)")


def _without_name(gold: str, given: str) -> tuple[str, str]:
    """Drop "x =" where only one side says it, or both say the same."""
    a, b = _NAMED.fullmatch(gold), _NAMED.fullmatch(given)
    if a and b:
        return (a[2], b[2]) if a[1] == b[1] else (gold, given)
    return (a[2] if a else gold), (b[2] if b else given)


_UNIT = re.compile(r"(.*[\d}])\s?([A-Za-z]{2,}(?: [A-Za-z]{2,})?)")
# Words after a number that are not its unit but change it, or join it to something else.
_NOT_UNITS = re.compile(
    r"\b(?:and|or|to|not|if|is|than|less|more|fewer|minus|plus|times|over|mod|per|base|percent|percentage|pct|cent"
    r"|hundred|thousand|million|billion|trillion|dozen|score|pair|half|halve|third|quarter|fourth|fifth|sixth"
    r"|seventh|eighth|ninth|tenth|hundredth|thousandth|squared|cubed|factorial|pi|sqrt|sin|cos|tan|log|ln|exp"
    r"|rad|radian|inf|infinity)s?\b",
    re.IGNORECASE,
)


def read_quantity(text: str) -> Quantity | None:
    """A number, with or without a unit of one or two words after it."""
    if len(text) > NUMBER_LIMIT:
        return None
    value, unit = read_number(text), ""
    if value is None and (match := _UNIT.fullmatch(text)) and not _NOT_UNITS.search(match[2]):
        value = read_number(match[1])
        unit = " ".join(word.rstrip("s") for word in match[2].casefold().split())
    return None if value is None else Quantity(value, unit)


_DECIMAL = re.compile(
    r"(?=[-+]?\.?\d)[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)?(?:\.\d+)?(?:[eE][-+]?\d{1,3})?",
    re.ASCII,
)
_FRACTION = re.compile(r"(-?)(?:(\d+)\s)?\s?(-?\d+)\s?/\s?(\d+)", re.ASCII)
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s?(?:\{\s?(-?\d+)\s?\}|(\d))\s?(?:\{\s?(\d+)\s?\}|(\d))", re.ASCII)


def read_number(text: str) -> Decimal | Fraction | None:
    r"""A decimal (-1,234.5, 1e3) or a fraction (1/2, 2 1/2, \frac{1}{2}) of bounded length; else None."""
    if len(text) > NUMBER_LIMIT or not text:
        return None
    if _DECIMAL.fullmatch(text):
        number = Decimal(text.replace(",", "").replace(" ", ""))
        _, digits, exponent = number.as_tuple()
        return number if len(digits) <= DIGITS and abs(int(exponent)) <= DIGITS else None
    match = _FRACTION.fullmatch(_LATEX_FRACTION.sub(_plain_fraction, text).strip())
    if not match or max(map(len, match.groups(""))) > DIGITS or int(match[4]) == 0:
        return None
    part = Fraction(int(match[3]), int(match[4]))
    if match[2] and not 0 <= part < 1:  # "2 3/2" is not how anybody writes a mixed number
        return None
    value = int(match[2] or 0) + part
    return -value if match[1] else value


def _plain_fraction(match: re.Match[str]) -> str:
    return f" {match[1] or match[2]}/{match[3] or match[4]}"
