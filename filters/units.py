"""Names of units, and how large they are: enough to see that 1 km is 1000 m and that 5 kg is not 5 m.

A word that is not here is still a unit where a number stands before it; only its size is unknown.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    measures: str
    size: Fraction  # in the first unit of its kind below


# kind -> size -> names; the SI brochure (9th edition) and the definitions of NIST Handbook 44, appendix C
_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "1": "m meter metre",
        "1000": "km kilometer kilometre",
        "0.01": "cm centimeter centimetre",
        "0.001": "mm millimeter millimetre",
        "0.000001": "µm micrometer micron",
        "0.000000001": "nm nanometer nanometre",
        "0.0254": "inch inches",
        "0.3048": "ft foot feet",
        "0.9144": "yd yard",
        "1609.344": "mi mile",
    },
    "mass": {
        "1": "kg kilogram kilo",
        "0.001": "g gram",
        "0.000001": "mg milligram",
        "1000": "tonne",
        "0.45359237": "lb pound",
        "0.028349523125": "oz ounce",
    },
    "time": {
        "1": "s sec second",
        "0.001": "ms millisecond",
        "60": "min minute",
        "3600": "h hr hour",
        "86400": "day",
        "604800": "week",
    },
    "calendar": {"1": "month", "12": "yr year", "120": "decade", "1200": "century"},
    "money in dollars": {"1": "dollar usd buck", "0.01": "¢"},
    "money in euros": {"1": "euro eur"},
    "money in yuan": {"1": "yuan rmb"},
    "money in rupees": {"1": "rupee"},
    "angle": {"1": "degree deg", "57.29577951308232": "rad radian"},
    "volume": {"1": "L liter litre", "0.001": "ml milliliter millilitre", "3.785411784": "gallon gal"},
    "area": {
        "1": "m^2 sqm square_meter square_metre",
        "0.0001": "cm^2 square_centimeter square_centimetre",
        "1000000": "km^2 square_kilometer square_kilometre",
        "0.09290304": "ft^2 square_foot square_feet",
        "0.00064516": "in^2 square_inch",
    },
    "cubic": {
        "1": "m^3 cubic_meter cubic_metre",
        "0.000001": "cm^3 cc cubic_centimeter cubic_centimetre",
        "0.028316846592": "ft^3 cubic_foot cubic_feet",
        "0.000016387064": "in^3 cubic_inch",
    },
    "speed": {
        "1": "m/s meter/second",
        "0.2777777777777778": "km/h kmh kph kilometer/hour",
        "0.44704": "mph mi/h mile/hour",
    },
    "acceleration": {"1": "m/s^2 meter/second^2"},
    "temperature": {"1": "degree_c degree_celsius celsius"},
    "temperature, Fahrenheit": {"1": "degree_f degree_fahrenheit fahrenheit"},
    "force": {"1": "N newton"},
    "energy": {"1": "J joule", "1000": "kj kilojoule"},
    "power": {"1": "W watt", "1000": "kw kilowatt"},
    "things": {"1": "unit"},
}
UNITS = {
    name: Unit(kind, Fraction(size))
    for kind, sizes in _TABLE.items()
    for size, names in sizes.items()
    for name in names.split()
}
_POWER = re.compile(r"\s?\^\s?\{?\s?([23])\s?\}?")
_NAME = re.compile(r"[^\W\d_]+")
_PER = re.compile(r"\s?(?:/|\bper\b)\s?")


def unit_of(words: str) -> str:
    """The name of a unit in one spelling: lower case, singular, m^2, km/h."""
    words = words.strip()
    if len(words) == 1:  # a letter is a unit only in its own case: 5 N
        return words
    words = _PER.sub("/", _POWER.sub(r"^\1", words.casefold().replace(".", "")))
    words = re.sub(r"\s?\*\s?| ", "_", words.strip())
    if words in UNITS:
        return words
    return _NAME.sub(lambda name: _singular(name[0]), words)


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word
