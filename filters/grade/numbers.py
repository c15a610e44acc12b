r"""Parses one number exactly, with an optional unit or percent sign, and compares two such numbers.

Pure and cheap on any text. A text that is not a number as a whole gives None.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import NamedTuple

from filters.grade.floats import is_printed_float
from filters.policy import Policy
from filters.text.measurement_units import UNITS, compound, unit_of
from filters.text.qualifiers import SCALES, any_phrase

MAX_DIGITS = 50
MAX_EXPONENT = 330  # a little more than that of a double
MAX_UNIT_CHARS = 60
MAX_NUMBER_CHARS = 200


class Number(NamedTuple):
    value: Fraction
    decimals: int | None = None  # digits after the point, None if it is not written as a decimal
    percent: bool = False  # `value` is the number before the sign
    unit: str = ""  # normalized, "" for a bare number


_DECIMAL = re.compile(
    r"(?=[-+]? ?\.?\d)([-+]?) ?"
    r"([1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|\d+)?(?:\.(\d+)|\.(?!\d))?(?:[eE]([-+]?\d{1,3}))?",
    re.ASCII,
)
_DECIMAL_COMMA = re.compile(r"([-+]?)(0|\d{1,3}(?:\.\d{3})*|[1-9]\d{0,2}(?: \d{3})+|\d+),(\d+)", re.ASCII)
_DOTTED = re.compile(r"-?[1-9]\d{0,2}(?:\.\d{3}){2,}", re.ASCII)  # 1.234.567
_FRACTION = re.compile(r"(-?) ?(?:(\d+) (?:and )?)?\(? ?(-?\d+)\)? ?/ ?\(?(-?\d+)\)?", re.ASCII)
_LATEX_FRACTION = re.compile(r"\\frac ?(?:\{ ?(-?\d+) ?\}|(\d)) ?(?:\{ ?(-?\d+) ?\}|(\d))(?! ?\d)", re.ASCII)
_CURRENCIES = {"USD": "dollar", "US": "dollar", "$": "dollar", "EUR": "euro", "€": "euro", "£": "pound"}
_CURRENCIES |= {"Rs.": "rupee", "Rs": "rupee", "INR": "rupee", "RM": "ringgit"}
_CURRENCY = "|".join((*map(re.escape, _CURRENCIES), "[¥₹¢]"))
_UNIT = re.compile(
    r"(.*?[\d}.)])(?:\s|(?=[A-Za-zµΩÅ\u3040-\u9fff\uac00-\ud7af]))\s*"
    r"([A-Za-zµΩÅ][A-Za-zµΩÅ.^/* 0-9{}\-]*|[\u3040-\u9fff\uac00-\ud7af]{1,6})"
)
_UNIT_AFTER_LETTER = re.compile(  # after a letter, a command or pi, but not after a word: 5 square meters
    r"(.*?(?:(?<![A-Za-z])(?:\\[A-Za-z]+|[A-Za-z]|pi)|[A-Za-z]\)))\s+"
    r"((?:square |cubic )?[A-Za-z]{2,}(?:\s?\^\s?[23])?)"
)
# A counter or unit in kana, Han or Hangul. Numerals are none, but 千米 is a kilometer.
_CJK_UNIT = re.compile(
    r"(?!(?:[十百千万萬亿億成折割백천만억]|分之)(?![米克瓦卡赫升]))[\u3040-\u9fff\uac00-\ud7af]+"
)
_MONEY = re.compile(
    rf"(?P<sign>-?)\s?(?P<before>{_CURRENCY})\s?(?P<rest>[-.\d].*)|(?P<number>.*\d)\s?(?P<after>{_CURRENCY})"
)
# Words after a number that change it or join it to something else.
_NOT_UNITS = re.compile(
    r"\b(?:and|or|to|not|if|is|than|less|more|fewer|minus|plus|times|over|mod|base|(?<=per )cent|not|no"
    r"|hundred|thousand|million|billion|trillion|quadrillion|lakh|crore|bn|mil|mn|gross|ten|dozen|score|pair"
    r"|half|halve|third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|\w+teenth"
    r"|\w+tieth|hundredth|thousandth|millionth|squared|cubed|factorial|below|above"
    r"|grand|ish|k|off|power|extra|by|too|short|plus|more|tens|times|otherwise|else|unless|when|for|except|only"
    r"|pi|sqrt|sin|cos|tan|log|ln|exp|inf|infinity|choose|remainder|per ?mille?|ppm|ppb|lac|[a-z]*illion"
    r"|(?:two|three|four|five|six|seven|eight|nine)\Z)s?\b"
    rf"|{any_phrase(SCALES)}",
    re.IGNORECASE,
)
_IN_BASE = re.compile(r"(-?)([0-9A-Z]{1,50}) ?_ ?\{? ?(?P<base>\d{1,2}) ?\}?", re.ASCII)
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_REPEATING = re.compile(
    r"(-?)(\d{0,20})\.(\d{0,20}) ?(?:\\(?:overline|bar|dot) ?\{|\() ?(\d{1,20}) ?[})]", re.ASCII
)
_RECURRING = re.compile(r"(-?)(\d{0,20})\.(\d{0,9}?)(\d{1,6}?)(?:\4){1,20} ?\\dots", re.ASCII)  # 0.333...
_PERCENT = re.compile(r"(.*[\d})])\s?(?:%|percent|per cent|pct|percentage)(?: points?)?", re.IGNORECASE)
_COMPOUND = re.compile(r"(\d{1,9}) ?([A-Za-z]+),? (?:and )?(\d{1,9}(?:\.\d{1,9})?) ?([A-Za-z]+)", re.ASCII)
_SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_SCALE = re.compile(rf"(.*\d) ({'|'.join(_SCALES)})(?: (.+))?", re.IGNORECASE)


def parse_number(text: str, *, decimal_comma: bool = False) -> Number | None:
    r"""Parses a decimal (-1,234.5, 1e3) or a fraction (1/2, 2 1/2, \frac{1}{2}).

    `decimal_comma`: also "2,74", which may be a list of two.
    """
    if len(text) > MAX_NUMBER_CHARS or not text:
        return None
    if match := _DECIMAL.fullmatch(text):
        whole = (match[2] or "").replace(",", "").replace(" ", "")
        return _decimal(match[1], whole, match[3] or "", match[4])
    if _DOTTED.fullmatch(text):
        return parse_number(text.replace(".", ""))
    if decimal_comma and (match := _DECIMAL_COMMA.fullmatch(text)):
        return _decimal(match[1], re.sub("[. ]", "", match[2]), match[3], None)
    return _fraction(text)


def parse_quantity(text: str, *, decimal_comma: bool = False) -> Number | None:
    """Parses a number with an optional percent sign, unit, scale ("million") or currency."""
    if len(text) > MAX_NUMBER_CHARS or not any(map(str.isdigit, text)):
        return None
    number_in = partial(parse_number, decimal_comma=decimal_comma)
    if number := number_in(text):
        return number
    if money := _MONEY.fullmatch(text):
        amount = (money["sign"] or "") + (money["rest"] or money["number"])
        number = parse_quantity(amount, decimal_comma=decimal_comma)
        currency = money["before"] or money["after"]
        return number and number._replace(unit=number.unit or _CURRENCIES.get(currency, currency))
    if match := _PERCENT.fullmatch(text):
        number = number_in(match[1])
        return number and number._replace(percent=True)
    if match := _SCALE.fullmatch(text):
        number, unit = number_in(match[1]), split_unit(f"1 {match[3]}")[1] if match[3] else ""
        if match[3] and not unit:  # 5 million and three
            return None
        return number and Number(number.value * _SCALES[match[2].casefold()], unit=unit)
    if match := _ORDINAL.fullmatch(text):
        return parse_number(match[1])
    if match := _REPEATING.fullmatch(text) or _RECURRING.fullmatch(text):
        return _repeating(*match.groups()[:4])
    if match := _IN_BASE.fullmatch(text):
        return _in_base(match[1], match[2], int(match["base"]))
    if match := _COMPOUND.fullmatch(text):
        return _compound(*match.groups())
    text, unit = split_unit(text)
    number = number_in(text)
    return number and number._replace(unit=unit)


def split_unit(text: str) -> tuple[str, str]:
    """Splits off a unit, "" if there is none. A separate word may be an unknown unit."""
    start = max(len(text) - MAX_UNIT_CHARS, 0)
    if (after := _UNIT_AFTER_LETTER.fullmatch(text)) and unit_of(after[2]) in UNITS:
        return after[1], unit_of(after[2])  # 12 pi cm^2
    match = _UNIT.fullmatch(text, start)
    if not match or _NOT_UNITS.search(match[2]):
        return text, ""
    core, words = text[: match.end(1)].strip(), match[2].strip()
    if _CJK_UNIT.fullmatch(match[2]):
        return core, words
    apart = text[match.end(1)] == " "
    known = unit_of(words) in UNITS and (apart or len(words) > 1)  # 5m is five times m
    if apart and (several := compound(words)):
        return core, several
    if known or (apart and re.fullmatch(r"[A-Za-z]{2,}\.?(?: [A-Za-z]{2,}\.?){0,2}", words)):
        return core, unit_of(words)
    return text, ""


def equal_numbers(reference: Number, answer: Number, policy: Policy) -> bool | None:
    """Whether two plain numbers are equal, None if a unit is unknown or digits were lost."""
    if "_" in (reference.unit[:1], answer.unit[:1]) and not (reference.unit and answer.unit):
        return reference.value == answer.value or _in_base_ten(reference) == _in_base_ten(answer)
    if reference.unit and answer.unit and reference.unit != answer.unit:
        return _equal_in_units(reference, answer, policy)
    if bool(reference.unit) != bool(answer.unit) and not policy.unit_optional:
        return False
    if reference.percent != answer.percent:
        if reference.unit or answer.unit:  # 5% and 5 dollars
            return None if reference.value == answer.value else False
        return _equal_percent(reference, answer, policy)
    if _equal(reference, answer, policy):
        return True
    if not policy.rounding_digits:
        return False
    floats = is_printed_float(reference, answer.value), is_printed_float(answer, reference.value)
    return any(floats) or (None if None in floats else False)


def rounds_to(decimal: Number, exact: Fraction, policy: Policy) -> bool:
    """Whether a decimal is the exact value, rounded or truncated, with enough digits to stand for it."""
    if decimal.decimals is None or not policy.rounding_digits:
        return False
    unit = Fraction(1, 10) ** decimal.decimals
    if abs(decimal.value) / unit < 10 ** (policy.rounding_digits - 1):
        return False
    error = exact - decimal.value
    truncated = 0 <= error * (1 if exact > 0 else -1) < unit
    return abs(error) * 2 <= unit or truncated


def _decimal(sign: str, whole: str, part: str, exponent: str | None) -> Number | None:
    power = int(exponent or 0)
    if len(whole) + len(part) > MAX_DIGITS or abs(power) > MAX_EXPONENT:
        return None
    value = Fraction(Decimal(f"{sign}{whole or 0}.{part or 0}")) * Fraction(10) ** power
    return Number(value, max(len(part) - power, 0) if part else None)


def _repeating(sign: str, whole: str, part: str, repeated: str) -> Number:
    r"""Reads 0.1\overline{6} as 1/6."""
    value = int(whole + part or 0) + Fraction(int(repeated), 10 ** len(repeated) - 1)
    value /= 10 ** len(part)
    return Number(-value if sign else value)


def _compound(large: str, large_unit: str, small: str, small_unit: str) -> Number | None:
    """Converts 1 hour 30 minutes to the first unit."""
    a, b = UNITS.get(unit_of(large_unit)), UNITS.get(unit_of(small_unit))
    if a is None or b is None or a.measures != b.measures or a.size <= b.size:
        return None
    return Number(int(large) + Fraction(Decimal(small)) * b.size / a.size, unit=unit_of(large_unit))


def _in_base(sign: str, digits: str, base: int) -> Number | None:
    """Reads 1012_3 as its digits with the base as a unit, since one side may omit the base."""
    if not 2 <= base <= 36 or any(int(digit, 36) >= base for digit in digits) or not digits.isdigit():
        return None
    return Number(Fraction(int(sign + digits)), unit=f"_{base}")


def _fraction(text: str) -> Number | None:
    match = _FRACTION.fullmatch(_LATEX_FRACTION.sub(r" \1\2/\3\4", text).strip())
    if not match or max(map(len, match.groups(""))) > MAX_DIGITS or int(match[4]) == 0:
        return None
    part = Fraction(int(match[3]), int(match[4]))
    if match[2] and not 0 <= part < 1:  # "2 3/2" is no mixed number
        return None
    value = int(match[2] or 0) + part
    return Number(-value if match[1] else value)


def _in_base_ten(number: Number) -> Fraction:
    return Fraction(int(str(number.value), int(number.unit[1:]))) if number.unit else number.value


def _equal(reference: Number, answer: Number, policy: Policy) -> bool:
    if reference.value == answer.value:
        return True
    if reference.decimals is not None and answer.decimals is not None:
        short, long = sorted((reference, answer), key=lambda n: n.decimals or 0)
        half = Fraction(1, 2) * Fraction(1, 10) ** (short.decimals or 0)
        return rounds_to(short, long.value, policy) and abs(short.value - long.value) <= half
    for exact, rounded in ((reference, answer), (answer, reference)):
        if exact.decimals is None and exact.value.denominator != 1:
            return rounds_to(rounded, exact.value, policy)
    return False


def _equal_percent(reference: Number, answer: Number, policy: Policy) -> bool:
    percent, plain = (reference, answer) if reference.percent else (answer, reference)
    hundredth = percent._replace(
        value=percent.value / 100, decimals=None if percent.decimals is None else percent.decimals + 2
    )
    if _equal(hundredth, plain, policy) or is_printed_float(hundredth, plain.value):
        return True
    return policy.percent_sign_optional and abs(plain.value) > 1 and _equal(percent, plain, policy)


def _equal_in_units(reference: Number, answer: Number, policy: Policy) -> bool | None:
    if reference.unit[0] == answer.unit[0] == "_":
        return _in_base_ten(reference) == _in_base_ten(answer)
    a, b = UNITS.get(reference.unit), UNITS.get(answer.unit)
    if a is None or b is None:
        unlike = a is b and " " not in reference.unit + answer.unit
        return None if _equal(reference, answer, policy) else False if unlike else None
    if a.measures != b.measures:
        return False
    return _equal(
        Number(reference.value * a.size, reference.decimals),
        Number(answer.value * b.size, answer.decimals),
        policy,
    )
