r"""Exact reading of one number, with or without a unit or a percent sign.

Pure and cheap: no text can make it slow. It speaks only of what it reads whole; anything else is None.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import NamedTuple

from filters.grade.floats import same_float
from filters.policy import Policy
from filters.text.measurement_units import UNITS, compound, unit_of

DIGITS = 50  # of a number; longer ones are not plain
EXPONENT = 330  # its size; that of a double is less
UNIT_LIMIT = 60  # characters at the end in which a unit is looked for
NUMBER_LIMIT = 200  # characters of a text that may be one number


class Number(NamedTuple):
    value: Fraction
    decimals: int | None = None  # digits after the point where it was written as a decimal, else None
    percent: bool = False  # `value` is then what stands before the sign
    unit: str = ""  # as written, folded; "" for a bare number


_DECIMAL = re.compile(
    r"(?=[-+]? ?\.?\d)([-+]?) ?"
    r"([1-9]\d{0,2}(?:,\d{3})+|[1-9]\d{0,2}(?: \d{3})+|\d+)?(?:\.(\d+)|\.(?!\d))?(?:[eE]([-+]?\d{1,3}))?",
    re.ASCII,
)
_DECIMAL_COMMA = re.compile(r"([-+]?)(0|\d{1,3}(?:\.\d{3})*|\d+),(\d+)", re.ASCII)
_DOTTED = re.compile(r"-?[1-9]\d{0,2}(?:\.\d{3}){2,}", re.ASCII)  # 1.234.567
_FRACTION = re.compile(r"(-?) ?(?:(\d+) (?:and )?)?\(? ?(-?\d+)\)? ?/ ?\(?(-?\d+)\)?", re.ASCII)
_LATEX_FRACTION = re.compile(
    r"\\frac ?(?:\{ ?(-?\d+) ?\}|(\d)) ?(?:\{ ?(-?\d+) ?\}|(\d))",
    re.ASCII,
)
_CURRENCIES = {"USD": "dollar", "US": "dollar", "$": "dollar", "EUR": "euro", "€": "euro", "£": "pound"}
_CURRENCY = "|".join((*map(re.escape, _CURRENCIES), "[¥₹¢]"))
_UNIT = re.compile(
    r"(.*?[\d}.)])(?:\s|(?=[A-Za-zµΩÅ\u3040-\u9fff\uac00-\ud7af]))\s*"
    r"([A-Za-zµΩÅ][A-Za-zµΩÅ.^/* 0-9{}\-]*|[\u3040-\u9fff\uac00-\ud7af]{1,6})"
)
# A counter or unit in kana, Han or Hangul; not a number's, but 千米 is a kilometre.
_UNIT_AFTER_LETTER = re.compile(
    r"(.*?(?:[A-Za-z](?<!degree)(?<!degrees)|[A-Za-z]\)))\s+"
    r"((?:square |cubic )?[A-Za-z]{2,}(?:\s?\^\s?[23])?)"
)
_UNPARTED = re.compile(r"(?!(?:[十百千万萬亿億成折割]|分之)(?![米克瓦卡赫升]))[\u3040-\u9fff\uac00-\ud7af]+")
_MONEY = re.compile(
    rf"(?P<sign>-?)\s?(?P<before>{_CURRENCY})\s?(?P<rest>[-.\d].*)|(?P<number>.*\d)\s?(?P<after>{_CURRENCY})"
)
# Words after a number that are not its unit but change it, or join it to something else.
_NOT_UNITS = re.compile(
    r"\b(?:and|or|to|not|if|is|than|less|more|fewer|minus|plus|times|over|mod|base|(?<=per )cent|not|no"
    r"|hundred|thousand|million|billion|trillion|quadrillion|lakh|crore|bn|mil|mn|gross|ten|dozen|score|pair"
    r"|half|halve|third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|\w+teenth"
    r"|\w+tieth|hundredth|thousandth|millionth|squared|cubed|factorial|below|above"
    r"|grand|ish|k|off|power|extra|by|too|short|plus|more|tens|times|otherwise|else|unless|when|for|except|only"
    r"|pi|sqrt|sin|cos|tan|log|ln|exp|inf|infinity)s?\b",
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
_SCALE = re.compile(r"(.*\d) (hundred|thousand|million|billion|trillion|dozen)", re.IGNORECASE)
_SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}


def read_number(text: str, *, decimal_comma: bool = False) -> Number | None:
    r"""A decimal (-1,234.5, 1e3) or a fraction (1/2, 2 1/2, \frac{1}{2}) of bounded length; else None.

    `decimal_comma` also reads "2,74", which may as well be a list of two.
    """
    if len(text) > NUMBER_LIMIT or not text:
        return None
    if match := _DECIMAL.fullmatch(text):
        return _decimal(
            match[1], (match[2] or "").replace(",", "").replace(" ", ""), match[3] or "", match[4]
        )
    if _DOTTED.fullmatch(text):
        return read_number(text.replace(".", ""))
    if decimal_comma and (match := _DECIMAL_COMMA.fullmatch(text)):
        return _decimal(match[1], match[2].replace(".", ""), match[3], None)
    return _fraction(text)


def read_quantity(text: str, *, decimal_comma: bool = False) -> Number | None:
    """A number, with or without a percent sign, a unit of a few words after it or a currency before it."""
    if len(text) > NUMBER_LIMIT or not any(map(str.isdigit, text)):
        return None
    number = read_number(text, decimal_comma=decimal_comma)
    if number is not None:
        return number
    if money := _MONEY.fullmatch(text):
        found = read_quantity(
            (money["sign"] or "") + (money["rest"] or money["number"]), decimal_comma=decimal_comma
        )
        currency = money["before"] or money["after"]
        return found and (found if found.unit else found._replace(unit=_CURRENCIES.get(currency, currency)))
    if match := _PERCENT.fullmatch(text):
        number = read_number(match[1], decimal_comma=decimal_comma)
        return number and number._replace(percent=True)
    if match := _SCALE.fullmatch(text):
        number = read_number(match[1], decimal_comma=decimal_comma)
        return number and Number(number.value * _SCALES[match[2].casefold()])
    if match := _ORDINAL.fullmatch(text):
        return read_number(match[1])
    if match := _REPEATING.fullmatch(text) or _RECURRING.fullmatch(text):
        return _repeating(*match.groups()[:4])
    if match := _IN_BASE.fullmatch(text):
        return _in_base(match[1], match[2], int(match["base"]))
    if match := _COMPOUND.fullmatch(text):
        return _compound(*match.groups())
    text, unit = split_unit(text)
    number = read_number(text, decimal_comma=decimal_comma)
    return number and number._replace(unit=unit)


def split_unit(text: str) -> tuple[str, str]:
    """The text before a unit, and the unit; "" where there is none. A word of its own may be any unit."""
    start = max(len(text) - UNIT_LIMIT, 0)
    if (after := _UNIT_AFTER_LETTER.fullmatch(text)) and unit_of(after[2]) in UNITS:
        return after[1], unit_of(after[2])  # 12 pi cm^2
    match = _UNIT.fullmatch(text, start)
    if not match or _NOT_UNITS.search(match[2]):
        return text, ""
    words = match[2].strip()
    if _UNPARTED.fullmatch(match[2]):
        return text[: match.end(1)].strip(), match[2].strip()
    apart = text[match.end(1)] == " "
    known = unit_of(words) in UNITS and (apart or len(words) > 1)  # 5m is five times m
    if apart and (several := compound(words)):
        return text[: match.end(1)].strip(), several
    if known or (apart and re.fullmatch(r"[A-Za-z]{2,}\.?(?: [A-Za-z]{2,}\.?){0,2}", words)):
        return text[: match.end(1)].strip(), unit_of(words)
    return text, ""


def same_number(gold: Number, given: Number, policy: Policy) -> bool | None:
    """Whether two plain numbers agree; None where a unit is not known here, or digits were lost."""
    if "_" in (gold.unit[:1], given.unit[:1]) and not (gold.unit and given.unit):
        return gold.value == given.value or _in_ten(gold) == _in_ten(given)
    if gold.unit and given.unit and gold.unit != given.unit:
        return _same_in_units(gold, given, policy)
    if bool(gold.unit) != bool(given.unit) and not policy.unit_optional:
        return False
    if gold.percent != given.percent and (gold.unit or given.unit):  # 5% beside 5 dollars
        return None if gold.value == given.value else False
    if gold.percent != given.percent:
        return _same_percent(gold, given, policy)
    if _equal(gold, given, policy):
        return True
    if not policy.rounding_digits:
        return False
    floats = same_float(gold, given.value), same_float(given, gold.value)
    return any(floats) or (None if None in floats else False)


def rounds_to(decimal: Number, exact: Fraction, policy: Policy) -> bool:
    """Whether a decimal is the exact value, rounded or cut off, with digits enough to stand for it."""
    if decimal.decimals is None or not policy.rounding_digits:
        return False
    unit = Fraction(1, 10) ** decimal.decimals
    if abs(decimal.value) / unit < 10 ** (policy.rounding_digits - 1):
        return False
    error = exact - decimal.value
    cut_off = 0 <= error * (1 if exact > 0 else -1) < unit
    return abs(error) * 2 <= unit or cut_off


def _decimal(sign: str, whole: str, part: str, exponent: str | None) -> Number | None:
    power = int(exponent or 0)
    if len(whole) + len(part) > DIGITS or abs(power) > EXPONENT:
        return None
    value = Fraction(Decimal(f"{sign}{whole or 0}.{part or 0}")) * Fraction(10) ** power
    return Number(value, max(len(part) - power, 0) if part else None)


def _repeating(sign: str, whole: str, part: str, repeated: str) -> Number:
    """0.1\\overline{6}."""
    scale = 10 ** len(part)
    value = (
        Fraction(int(whole + part or 0) * (10 ** len(repeated) - 1) + int(repeated), 10 ** len(repeated) - 1)
        / scale
    )
    return Number(-value if sign else value)


def _compound(large: str, large_unit: str, small: str, small_unit: str) -> Number | None:
    """1 hour 30 minutes, in the first unit."""
    a, b = UNITS.get(unit_of(large_unit)), UNITS.get(unit_of(small_unit))
    if a is None or b is None or a.measures != b.measures or a.size <= b.size:
        return None
    return Number(int(large) + Fraction(Decimal(small)) * b.size / a.size, unit=unit_of(large_unit))


def _in_base(sign: str, digits: str, base: int) -> Number | None:
    """1012_3: as its digits, with the base for a unit; a base that one side leaves out does not count."""
    if not 2 <= base <= 36 or any(int(digit, 36) >= base for digit in digits) or not digits.isdigit():
        return None
    return Number(Fraction(int(sign + digits)), unit=f"_{base}")


def _fraction(text: str) -> Number | None:
    text = _LATEX_FRACTION.sub(_plain_fraction, text).strip()
    match = _FRACTION.fullmatch(text)
    if not match or max(map(len, match.groups(""))) > DIGITS or int(match[4]) == 0:
        return None
    part = Fraction(int(match[3]), int(match[4]))
    if match[2] and not 0 <= part < 1:  # "2 3/2" is not how anybody writes a mixed number
        return None
    value = int(match[2] or 0) + part
    return Number(-value if match[1] else value)


def _plain_fraction(match: re.Match[str]) -> str:
    return f" {match[1] or match[2]}/{match[3] or match[4]}"


def _in_ten(number: Number) -> Fraction:
    return Fraction(int(str(number.value), int(number.unit[1:]))) if number.unit else number.value


def _equal(gold: Number, given: Number, policy: Policy) -> bool:
    if gold.value == given.value:
        return True
    if gold.decimals is not None and given.decimals is not None:
        short, long = sorted((gold, given), key=lambda n: n.decimals or 0)
        half = Fraction(1, 2) * Fraction(1, 10) ** (short.decimals or 0)
        return rounds_to(short, long.value, policy) and abs(short.value - long.value) <= half
    if gold.value.denominator == 1 and given.value.denominator == 1:
        return False
    if gold.decimals is None and gold.value.denominator != 1:
        return rounds_to(given, gold.value, policy)
    if given.decimals is None and given.value.denominator != 1:
        return rounds_to(gold, given.value, policy)
    return False


def _same_percent(gold: Number, given: Number, policy: Policy) -> bool:
    percent, plain = (gold, given) if gold.percent else (given, gold)
    hundredth = percent._replace(
        value=percent.value / 100, decimals=None if percent.decimals is None else percent.decimals + 2
    )
    if _equal(hundredth, plain, policy) or same_float(hundredth, plain.value):
        return True
    return policy.percent_sign_optional and abs(plain.value) > 1 and _equal(percent, plain, policy)


def _same_in_units(gold: Number, given: Number, policy: Policy) -> bool | None:
    if gold.unit[0] == given.unit[0] == "_":
        return _in_ten(gold) == _in_ten(given)
    a, b = UNITS.get(gold.unit), UNITS.get(given.unit)
    if a is None or b is None:
        unlike = a is b and " " not in gold.unit + given.unit
        return None if _equal(gold, given, policy) else False if unlike else None
    if a.measures != b.measures:
        return False
    return _equal(
        Number(gold.value * a.size, gold.decimals),
        Number(given.value * b.size, given.decimals),
        policy,
    )
