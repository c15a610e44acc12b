"""What equations and inequalities leave to their unknowns: intervals, unions, points."""

from __future__ import annotations

import re

from filters.grade.relations import FLIPPED, LABEL, label_of
from filters.grade.structure import Structure, gaps, structure


def interval(relation: Structure) -> Structure | None:
    """The interval that an inequality, or "x ∈ [a, b]", leaves to its one name; None for any other."""
    parts, marks = relation.parts, relation.marks
    if marks == ("∈",) and label_of(relation):
        inner = structure(parts[1])
        return inner if inner.kind == "tuple" else None
    if marks == ("≠",) and label_of(relation):
        return Structure("union", gaps((parts[1],)))
    if not set(marks) <= set("<>≤≥") or label_of(relation) is None:
        return None
    if len(parts) == 3 and len({mark in "<≤" for mark in marks}) == 1:
        low, high, left, right = parts[0], parts[2], marks[0], marks[1]
        if left in ">≥":
            low, high, left, right = high, low, right, left
        return Structure("tuple", (low, high), ("[" if left in "≤≥" else "(", "]" if right in "≤≥" else ")"))
    if len(parts) != 2:
        return None
    name, bound, mark = parts[0], parts[1], marks[0]
    if not LABEL.fullmatch(name):
        name, bound, mark = bound, name, mark.translate(FLIPPED)
    if "|" in name:  # |x| < 3
        low, high = ("[", "]") if mark in "≤≥" else ("(", ")")
        if mark in "<≤":
            return Structure("tuple", (f"-({bound})", bound), (low, high))
        return Structure("union", (f"(-∞,-({bound}){high}", f"{low}{bound},∞)"))
    if mark in "<≤":
        return Structure("tuple", ("-∞", bound), ("(", "]" if mark == "≤" else ")"))
    return Structure("tuple", (bound, "∞"), ("[" if mark == "≥" else "(", ")"))


_DOMAIN = re.compile(r"[A-Za-z](?:\s?,\s?[A-Za-z])*\s?∈\s?\\mathbb.*")


def without_conditions(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Without what a variable ranges over: k pi, k ∈ Z."""
    kept = tuple(part for part in parts if not _DOMAIN.fullmatch(part))
    return kept or parts


def joined_bounds(text: str, parts: tuple[str, ...]) -> Structure | None:
    """Inequalities of one name that "and" or "or" joins, as an interval or a union; None for others."""
    words = {word for word in ("and", "or") if re.search(rf"(?<![a-z\\]){word}(?![a-z])", text)}
    bounds = [structure(part) for part in parts]
    if len(words) != 1 or any(not set(bound.marks) & set("<>≤≥") for bound in bounds):
        return None
    if len({label_of(bound) for bound in bounds}) != 1 or None in (
        sets := [interval(bound) for bound in bounds]
    ):
        return None
    found = [side for side in sets if side is not None]
    if any(side.kind != "tuple" for side in found):
        return None
    if words == {"or"}:
        return Structure(
            "union", tuple(side.marks[0] + ",".join(side.parts) + side.marks[1] for side in found)
        )
    if len(found) != 2:
        return None
    low, high = sorted(found, key=lambda side: side.parts[0] == "-∞")
    if low.parts[1] != "∞" or high.parts[0] != "-∞":
        return None
    return Structure("tuple", (low.parts[0], high.parts[1]), (low.marks[0], high.marks[1]))


def indexed(several: Structure) -> bool:
    """Whether a list names the values of one unknown: x_1 = 3, x_2 = 2."""
    labels = {label_of(part) or "" for part in several.parts} if several.kind == "list" else set()
    alike = len({label[:1] for label in labels}) == 1 and all("_" in label for label in labels)
    return alike and len(labels) == len(several.parts) > 1


def unnamed(several: Structure) -> bool:
    return all(label_of(part) is None for part in several.parts)


def values(several: Structure) -> Structure:
    """A list of assignments without the names."""
    return several._replace(parts=tuple(part.partition("=")[2].strip() for part in several.parts))


def solutions(several: Structure) -> Structure:
    """A list as the points that solve something: p = 5, q = 2; p = 7, q = 2 is (5, 2), (7, 2), the names in
    order; and a point is one solution however often it is named, though a number may stand twice."""
    if several.kind != "list":
        return several
    parts = several.parts
    labels = [label_of(part) or "" for part in parts] if "=" in parts[0] else []
    count = len(set(labels))
    if len(parts) == count and all(len(label) == 1 for label in labels):  # y = 1, x = 2
        parts = tuple(part for _, part in sorted(zip(labels, parts, strict=True)))
    if 1 < count < len(parts) and labels == labels[:count] * (len(parts) // count):
        given = values(several).parts
        order = sorted(range(count), key=labels.__getitem__)
        parts = tuple(
            f"({','.join(given[first + i] for i in order)})" for first in range(0, len(parts), count)
        )
    if all(part[:1] == "(" for part in parts):
        parts = tuple(dict.fromkeys(part.replace(" ", "") for part in parts))
    return several._replace(parts=parts)
