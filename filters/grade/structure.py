r"""What an answer is made of: a list, a tuple or interval, a set, a union, a chain of relations, one thing.

Works on folded text and splits it where nothing encloses the separator; the parts stay text, for the
comparison to read. Linear in the text's length; nesting is bounded.
"""

from __future__ import annotations

import itertools
import re
from typing import Literal, NamedTuple

from filters.text.latex_tables import ROW, UNION

Kind = Literal["one", "list", "tuple", "set", "union", "chain"]

DEPTH = 60
PARTS = 100  # of a list: more is nobody's answer


class Structure(NamedTuple):
    kind: Kind
    parts: tuple[str, ...]  # texts; of "one" the text itself
    marks: tuple[str, ...] = ()  # of a chain its relations, of a tuple its two brackets


_OPEN, _CLOSE = "([{⦃", ")]}⦄"
_RELATIONS = "=<>≤≥≠≈∈≡"
_AND = re.compile(r"(?<![A-Za-z])(?:and|or|und|oder|et|ou|y|o|和|或)(?![A-Za-z])|[,;]|(?<=[^\x00-\x7f]),")
_WORD_AND = re.compile(r"(?<![A-Za-z\\])(?:and|or|und|oder|et|ou)(?![A-Za-z])|和|或")
_GROUPED = re.compile(r"(?<![\d,.])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
_ENVIRONMENT = re.compile(r"\\begin|\\end")


_REALS = frozenset((r"\mathbb{R}", r"\mathbb R", r"\R"))
_BUILDER = re.compile(r"[A-Za-z]\s?(?:∈\s?\\mathbb\s?\{?\s?R\s?\}?)?\s?[|:]\s?(.+)")
_WITHOUT = re.compile(r"\\mathbb\s?\{?\s?R\s?\}?\s?(?:\\setminus|\\backslash|-)\s?⦃([^⦃⦄]*)⦄")
_VECTOR = re.compile(r"\\begin\{[pbv]?matrix\}(.*)\\end\{[pbv]?matrix\}", re.IGNORECASE)


def gaps(points: tuple[str, ...]) -> tuple[str, ...]:
    """The intervals that are left of all real numbers without these, given in rising order."""
    return tuple(f"({a},{b})" for a, b in itertools.pairwise(("-∞", *points, "∞")))


def vector(text: str) -> Structure | None:
    """The tuple that a matrix of one row or one column is; None for any other text."""
    match = _VECTOR.fullmatch(text)
    if not match or r"\begin" in match[1]:
        return None
    rows = [row.strip() for row in match[1].strip().removesuffix(ROW).split(ROW)]
    if len(rows) > 1 and "&" in match[1]:
        return None
    return Structure(
        "tuple", tuple(rows if len(rows) > 1 else (p.strip() for p in rows[0].split("&"))), ("(", ")")
    )


def structure(text: str) -> Structure:
    """How a folded text is built, at its outermost level."""
    text = unwrap(text)
    if text in _REALS:
        return Structure("tuple", ("-∞", "∞"), ("(", ")"))
    if text == "∅":
        return Structure("set", ())
    if len(parts := split(text)) > 1:
        return Structure("list", parts)
    if text.startswith("⦃") and _encloses(text):
        if condition := _BUILDER.fullmatch(text[1:-1].strip()):
            return structure(condition[1])
        return Structure("set", split(text[1:-1], grouped=False))
    if text.startswith("{") and _encloses(text):
        return Structure("set", split(text[1:-1], grouped=False))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _encloses(text):
        inner = split(text[1:-1], grouped=False)
        if len(inner) > 1:
            return Structure("tuple", inner, (text[0], text[-1]))
    if removed := _WITHOUT.fullmatch(text):
        return Structure("union", gaps(split(removed[1], grouped=False)))
    parts, marks = _cut(text, _RELATIONS)
    if marks and all(parts):
        return Structure("chain", parts, marks)
    parts, marks = _cut(text, UNION)
    if marks and all(parts):
        return Structure("union", parts)
    return Structure("one", (text,))


def unwrap(text: str) -> str:
    """Without brackets around the whole that hold one thing: (3), [-3], {{x}}."""
    for _ in range(DEPTH):
        if (
            not (text[:1] in _OPEN[:3] and text[:1] and _encloses(text))
            or len(split(text[1:-1], grouped=False)) != 1
        ):
            break
        text = text[1:-1].strip()
    return text


def split(text: str, *, grouped: bool = True) -> tuple[str, ...]:
    """The parts between commas, semicolons, "and" and "or" that nothing encloses.

    grouped: 1,234 is one number; inside brackets it is two.
    """
    if grouped and "," in text:
        text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    if "," not in text and ";" not in text and not _WORD_AND.search(text):
        return (text,)
    if not _ENVIRONMENT.search(text):
        text = _WORD_AND.sub(",", text)
    parts, _ = _cut(text, ",;")
    return tuple(part for part in parts if part)


def expand_signs(text: str) -> tuple[str, ...]:
    """Both readings of a text with ±."""
    if "±" not in text and "∓" not in text:
        return (text,)
    return text.replace("±", "+").replace("∓", "-"), text.replace("±", "-").replace("∓", "+")


def _cut(text: str, separators: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The parts of a text between separators outside of brackets and environments, and the separators."""
    parts, marks, start, depth = [], [], 0, 0
    for at, c in enumerate(text):
        if c in _OPEN:
            depth += 1
        elif c in _CLOSE:
            depth -= 1
        elif c == "\\" and text.startswith(r"\begin", at):
            depth += 1
        elif c == "\\" and text.startswith(r"\end", at):
            depth -= 1
        elif c in separators and depth == 0:
            parts.append(text[start:at].strip())
            marks.append(c)
            start = at + 1
            if len(parts) > PARTS:
                break
    parts.append(text[start:].strip())
    return tuple(parts), tuple(marks)


def _encloses(text: str) -> bool:
    """Whether the first bracket is closed by the last character: (a)(b) is not enclosed."""
    depth = 0
    for at, c in enumerate(text):
        if c in _OPEN:
            depth += 1
        elif c in _CLOSE:
            depth -= 1
            if depth <= 0:
                return at == len(text) - 1 and depth == 0
    return False
