"""Measurement units and their sizes: enough to see that 1 km is 1000 m and that 5 kg is not 5 m.

A word that is not listed still counts as a unit after a number. Only its size is unknown.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    measures: str
    size: Fraction  # in the base unit of what it measures


# quantity: size names; size names. Sources: the SI brochure (9th edition); NIST Handbook 44, appendix C.
_TABLE = """
length: 1 m meter metre; 1000 km kilometer kilometre; 0.01 cm centimeter centimetre
length: 0.1 dm decimeter decimetre
length: 0.001 mm millimeter millimetre; 0.000001 µm micrometer micron; 0.000000001 nm nanometer nanometre
length: 0.0254 inch inches in; 0.3048 ft foot feet; 0.9144 yd yard; 1609.344 mi mile
mass: 1 kg kilogram kilo; 0.001 g gram; 0.000001 mg milligram; 1000 tonne; 0.45359237 lb pound
mass: 0.028349523125 oz ounce
time: 1 s sec second; 0.001 ms millisecond; 60 min minute; 3600 h hr hour; 86400 day; 604800 week
calendar: 1 month; 12 yr year; 120 decade; 1200 century
money in dollars: 1 dollar usd us_dollar buck; 0.01 cent ¢
money in euros: 1 euro eur
money in yen: 1 yen jpy
money in yuan: 1 yuan rmb
money in rupees: 1 rupee
angle: 1 degree deg; 57.29577951308232 rad radian
volume: 0.001 L liter litre; 0.000001 ml milliliter millilitre; 0.003785411784 gallon gal
area: 1 m^2 sqm square_meter square_metre; 0.0001 cm^2 square_centimeter square_centimetre
area: 0.01 dm^2; 1000000 km^2 square_kilometer square_kilometre; 0.09290304 ft^2 square_foot square_feet
area: 0.00064516 in^2 square_inch
volume: 1 m^3 cubic_meter cubic_metre; 0.000001 cm^3 cc cubic_centimeter cubic_centimetre; 0.001 dm^3
volume: 0.028316846592 ft^3 cubic_foot cubic_feet; 0.000016387064 in^3 cubic_inch
speed: 1 m/s meter/second; 5/18 km/h kmh kph kilometer/hour; 0.44704 mph mi/h mile/hour
acceleration: 1 m/s^2 meter/second^2
temperature: 1 degree_c degree_celsius celsius
temperature, Fahrenheit: 1 degree_f degree_fahrenheit fahrenheit
force: 1 N newton
energy: 1 J joule; 1000 kj kilojoule; 1000000 megaj megajoule
power: 1 W watt; 1000 kw kilowatt; 0.001 mw milliwatt; 1000000 megaw megawatt
temperature, Kelvin: 1 K kelvin
voltage: 1 V volt; 0.001 mv millivolt; 1000 kv kilovolt
current: 1 A amp ampere; 0.001 ma milliamp
charge: 1 C coulomb
resistance: 1 Ω ω ohm
pressure: 1 pa pascal; 1000 kpa kilopascal; 1000000 megapa megapascal; 101325 atm
frequency: 1 hz hertz; 1000 khz; 1000000 mhz megahz
energy of particles: 1 ev; 1000 kev; 1000000 mev megaev; 1000000000 gev
amount: 1 mol mole
concentration: 1 M
ergs: 1 erg
ångström: 1 Å å angstrom
things: 1 unit
square units: 1 square_unit sq_unit unit^2
cubic units: 1 cubic_unit unit^3
"""
UNITS = {
    name: Unit(quantity, Fraction(size))
    for quantity, entries in (line.split(": ") for line in _TABLE.strip().splitlines())
    for size, *names in map(str.split, entries.split("; "))
    for name in names
}
_FACTOR = re.compile(r"([*/]|per)?\s*([A-Za-zµΩÅ]+)(?:\s?\^\s?\{?\s?(-?\d)\s?\}?)?\s*")
_POWER = re.compile(r"(?:(?<=[A-Za-z])|\s?\^\s?)\{?\s?([23])\s?\}?")  # m^2 and m2
# Of one letter, whose case matters: 5 mW and 5 MW. In lower case as a whole, mhz and mev stand for mega.
_PREFIX = re.compile(
    r"(?<![A-Za-z])(?:(M)(?=[gmLWJNVAMBb](?![A-Za-z])|Hz|Pa|eV)|m(?=[MBb](?![A-Za-z])|Hz|Pa|eV))"
)
_NAME = re.compile(r"[^\W\d_]+")
_SHORT_POWER = re.compile(r"\A(?:(sq|square)|cubic|cu)\.? ([a-z]{1,2})\Z")  # square cm, sq. ft
_PER = re.compile(r"\s?(?:/|\bper\b)\s?")


def unit_of(words: str) -> str:
    """Returns a unit's name in one spelling: lower case, singular, m^2, km/h."""
    words = words.strip()
    if len(words) == 1:  # the case of a single letter matters: 5 N
        return words
    words = _PREFIX.sub(lambda prefix: "mega" if prefix[1] else "milli", words)
    words = _PER.sub("/", _POWER.sub(r"^\1", words.casefold().replace(".", "")))
    words = _SHORT_POWER.sub(lambda match: f"{match[2]}^{2 if match[1] else 3}", words.strip())
    words = re.sub(r"\s?\*\s?| ", "_", words)
    if words in UNITS:
        return words
    return _NAME.sub(lambda name: _singular(name[0]), words)


def compound(words: str) -> str:
    """Returns a product of units such as m s^{-1}, kg*m/s^2 or erg/s in one spelling, "" for other words.

    Also returns "" for a unit that the table lists by its own name.
    """
    if unit_of(words) in UNITS:
        return ""
    powers: dict[str, int] = {}
    at = 0
    while at < len(words):
        factor = _FACTOR.match(words, at)
        if factor is None or (name := unit_of(factor[2])) not in UNITS:
            return ""
        sign = -1 if factor[1] in ("/", "per") else 1
        powers[name] = powers.get(name, 0) + sign * int(factor[3] or 1)
        at = factor.end()
    return _listed(powers) or " ".join(f"{name}^{powers[name]}" for name in sorted(powers))


def _listed(powers: dict[str, int]) -> str:
    """Returns the table's name of a product: m/s for m^1 s^-1. Returns "" if it has none."""
    names = sorted(powers, key=powers.__getitem__, reverse=True)
    written = "/".join(name if abs(powers[name]) == 1 else f"{name}^{abs(powers[name])}" for name in names)
    return written if [powers[name] > 0 for name in names] == [True, False] and written in UNITS else ""


def _singular(word: str) -> str:
    if word in UNITS:
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word
