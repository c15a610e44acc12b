r"""Splits a normalized answer into its parts: a list, tuple, interval, set, union or chain of relations.

Splits only at separators outside brackets. The parts stay text. Takes linear time, with bounded nesting.
"""

from __future__ import annotations

import itertools
import re
from typing import Literal, NamedTuple

from filters.text.latex_tables import ROW, UNION

Kind = Literal["single", "list", "tuple", "set", "union", "chain"]

MAX_DEPTH = 60
MAX_PARTS = 100  # of a list


class Structure(NamedTuple):
    kind: Kind
    parts: tuple[str, ...]  # the text itself for "single"
    marks: tuple[str, ...] = ()  # the relations of a chain, the two brackets of a tuple


_DEPTH = dict.fromkeys("([{⦃", 1) | dict.fromkeys(")]}⦄", -1)
_RELATIONS = "=<>≤≥≠≈∈≡"
_WORD_AND = re.compile(r"(?<![A-Za-z\\])(?:and|or|und|oder|et|ou)(?![A-Za-z])|和|或")
_GROUPED = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
_ENVIRONMENT = re.compile(r"\\begin|\\end")
_REALS = frozenset((r"\mathbb{R}", r"\mathbb R", r"\R"))
_BUILDER = re.compile(r"[A-Za-z]\s?(?:∈\s?\\mathbb\s?\{?\s?R\s?\}?)?\s?[|:]\s?(.+)")
_WITHOUT = re.compile(r"\\mathbb\s?\{?\s?R\s?\}?\s?(?:\\setminus|\\backslash|-)\s?⦃([^⦃⦄]*)⦄")
_VECTOR = re.compile(r"\\begin\{[pbv]?matrix\}(.*)\\end\{[pbv]?matrix\}", re.IGNORECASE)
_POINT = re.compile(r"[A-Z](?:_\{?\w\}?)?'{0,2}\s?=?\s?(\(.*\))")  # F(0, -3)
_SYSTEM = re.compile(
    r"⦃?\s?\\begin\{(cases|aligned|array|gathered)\}(?:\{[lcr]*\})?(.*)\\end\{\1\}\s?\.?", re.DOTALL
)
_ASSIGNMENT = re.compile(r"[A-Za-z](?:_\w|_\{\w+\})?\s?&?\s?=\s?&?([^=,;&]+)[,;.]?")


def complement(points: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the intervals between these points, given in ascending order."""
    return tuple(f"({a},{b})" for a, b in itertools.pairwise(("-∞", *points, "∞")))


def vector(text: str) -> Structure | None:
    """Returns a matrix of one row or column as a tuple, None for any other text."""
    match = _VECTOR.fullmatch(text)
    if not match or r"\begin" in match[1]:
        return None
    rows = [row.strip() for row in match[1].strip().removesuffix(ROW).split(ROW)]
    if len(rows) > 1 and "&" in match[1]:
        return None
    parts = rows if len(rows) > 1 else [part.strip() for part in rows[0].split("&")]
    return Structure("tuple", tuple(parts), ("(", ")"))


def point(text: str) -> Structure | None:
    """Returns the coordinates of a point with a name, None for any other text."""
    match = _POINT.fullmatch(text)
    found = parse_structure(match[1]) if match else None
    return found if found and found.kind == "tuple" else None


def assignments(text: str) -> Structure | None:
    r"""Returns \begin{cases} x = 1 \\ y = 2 \end{cases} as a list of equations, None for any other text."""
    match = _SYSTEM.fullmatch(text)
    parts = [row.strip() for row in match[2].strip().removesuffix(ROW).split(ROW)] if match else []
    if len(parts) < 2 or not all(map(_ASSIGNMENT.fullmatch, parts)):
        return None
    return Structure("list", tuple(part.replace("&", "").rstrip(",;. ") for part in parts))


def rows(text: str) -> Structure | None:
    """Returns a matrix as a tuple of its rows, each a column, None for any other text."""
    match = _VECTOR.fullmatch(text)
    if not match or r"\begin" in match[1] or text.startswith(r"\begin{v"):
        return None
    found = match[1].strip().removesuffix(ROW).split(ROW)
    parts = tuple(rf"\begin{{matrix}}{row}\end{{matrix}}" for row in found)
    return Structure("tuple", parts, ("[", "]"))


def parse_structure(text: str) -> Structure:
    """Splits a normalized text at its outermost level."""
    text = strip_brackets(text)
    if text in _REALS:
        return Structure("tuple", ("-∞", "∞"), ("(", ")"))
    if text == "∅":
        return Structure("set", ())
    if r"\begin" in text and (system := assignments(text)):
        return system
    if len(parts := split(text)) > 1:
        return Structure("list", parts)
    if text.startswith(("⦃", "{")) and _is_enclosed(text):
        if text[0] == "⦃" and (condition := _BUILDER.fullmatch(text[1:-1].strip())):
            return parse_structure(condition[1])
        return Structure("set", split(text[1:-1], grouped=False))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _is_enclosed(text):
        inner = split(text[1:-1], grouped=False)
        if len(inner) > 1:
            return Structure("tuple", inner, (text[0], text[-1]))
    if removed := _WITHOUT.fullmatch(text):
        return Structure("union", complement(split(removed[1], grouped=False)))
    parts, marks = _split_outside_brackets(text, _RELATIONS)
    if marks and all(parts):
        return Structure("chain", parts, marks)
    parts, marks = _split_outside_brackets(text, UNION)
    if marks and all(parts):
        return Structure("union", parts)
    return Structure("single", (text,))


def strip_brackets(text: str) -> str:
    """Removes brackets around a whole text with a single part: (3), [-3], {{x}}."""
    for _ in range(MAX_DEPTH):
        if not text.startswith(("(", "[", "{")) or not _is_enclosed(text):
            break
        if len(split(text[1:-1], grouped=False)) != 1:
            break
        text = text[1:-1].strip()
    return text


def split(text: str, *, grouped: bool = True) -> tuple[str, ...]:
    """Splits at commas, semicolons, "and" and "or" outside brackets.

    `grouped`: 1,234 is one number. Inside brackets it is two.
    """
    if grouped and "," in text:
        text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    if "," not in text and ";" not in text and not _WORD_AND.search(text):
        return (text,)
    if not _ENVIRONMENT.search(text):
        text = _WORD_AND.sub(",", text)
    parts, _ = _split_outside_brackets(text, ",;")
    return tuple(part for part in parts if part)


def expand_signs(text: str) -> tuple[str, ...]:
    """Returns both readings of a text with ±."""
    if "±" not in text and "∓" not in text:
        return (text,)
    return text.replace("±", "+").replace("∓", "-"), text.replace("±", "-").replace("∓", "+")


def _split_outside_brackets(text: str, separators: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Splits at separators outside brackets and environments. Returns the parts and the separators."""
    parts, marks, start, depth = [], [], 0, 0
    for at, c in enumerate(text):
        depth += _DEPTH.get(c, 0)
        if c == "\\":
            depth += text.startswith(r"\begin", at) - text.startswith(r"\end", at)
        elif c in separators and depth == 0:
            parts.append(text[start:at].strip())
            marks.append(c)
            start = at + 1
            if len(parts) > MAX_PARTS:
                break
    parts.append(text[start:].strip())
    return tuple(parts), tuple(marks)


def _is_enclosed(text: str) -> bool:
    """Whether the last character closes the first bracket. (a)(b) is not enclosed."""
    depth = 0
    for at, c in enumerate(text):
        depth += _DEPTH.get(c, 0)
        if depth <= 0 and c in _DEPTH:
            return at == len(text) - 1 and depth == 0
    return False
