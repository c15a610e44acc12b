"""Converts equations and inequalities to the solutions that they state: intervals, unions, points."""

from __future__ import annotations

import re

from filters.grade.relations import FLIPPED, LABEL, label_of
from filters.grade.structure import Structure, complement, parse_structure


def interval(relation: Structure) -> Structure | None:
    """Returns the interval or union that an inequality or "x ∈ [a, b]" states for its one name, or None."""
    parts, marks = relation.parts, relation.marks
    if marks == ("∈",) and label_of(relation):
        inner = parse_structure(parts[1])
        return inner if inner.kind == "tuple" else None
    if marks == ("≠",) and label_of(relation):
        return Structure("union", complement((parts[1],)))
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
    """Removes the domain of a variable: k pi, k ∈ Z."""
    kept = tuple(part for part in parts if not _DOMAIN.fullmatch(part))
    return kept or parts


def joined_bounds(text: str, parts: tuple[str, ...]) -> Structure | None:
    """Returns inequalities of one name, joined by "and" or "or", as an interval or a union, or None."""
    words = {word for word in ("and", "or") if re.search(rf"(?<![a-z\\]){word}(?![a-z])", text)}
    bounds = [parse_structure(part) for part in parts]
    if len(words) != 1 or any(not set(bound.marks) & set("<>≤≥") for bound in bounds):
        return None
    found = [interval(bound) for bound in bounds]
    intervals = [side for side in found if side is not None and side.kind == "tuple"]
    if len({label_of(bound) for bound in bounds}) != 1 or len(intervals) < len(bounds):
        return None
    if words == {"or"}:
        return Structure("union", tuple(f"{i.marks[0]}{','.join(i.parts)}{i.marks[1]}" for i in intervals))
    if len(intervals) != 2:
        return None
    low, high = sorted(intervals, key=lambda side: side.parts[0] == "-∞")
    if low.parts[1] != "∞" or high.parts[0] != "-∞":
        return None
    return Structure("tuple", (low.parts[0], high.parts[1]), (low.marks[0], high.marks[1]))


def is_indexed(several: Structure) -> bool:
    """Whether a list names the values of one unknown: x_1 = 3, x_2 = 2."""
    labels = {label_of(part) or "" for part in several.parts} if several.kind == "list" else set()
    one_unknown = len({label[:1] for label in labels}) == 1 and all("_" in label for label in labels)
    return one_unknown and len(labels) == len(several.parts) > 1


def is_unnamed(several: Structure) -> bool:
    return all(label_of(part) is None for part in several.parts)


def without_names(several: Structure) -> Structure:
    """Returns the values of a list of assignments."""
    return several._replace(parts=tuple(part.partition("=")[2].strip() for part in several.parts))


def solutions(several: Structure) -> Structure:
    """Returns a list of assignments as points: p = 5, q = 2; p = 7, q = 2 becomes (5, 2), (7, 2).

    Coordinates are in the order of their names. Repeated points count once, repeated numbers do not.
    """
    if several.kind != "list":
        return several
    parts = several.parts
    labels = [label_of(part) or "" for part in parts] if "=" in parts[0] else []
    count = len(set(labels))
    if len(parts) == count and all(len(label) == 1 for label in labels):  # y = 1, x = 2
        parts = tuple(part for _, part in sorted(zip(labels, parts, strict=True)))
    if 1 < count < len(parts) and labels == labels[:count] * (len(parts) // count):
        values = without_names(several).parts
        order = sorted(range(count), key=labels.__getitem__)
        starts = range(0, len(parts), count)
        parts = tuple(f"({','.join(values[start + i] for i in order)})" for start in starts)
    if all(part[:1] == "(" for part in parts):
        parts = tuple(dict.fromkeys(part.replace(" ", "") for part in parts))
    return several._replace(parts=parts)
