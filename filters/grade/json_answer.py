"""JSON as an answer: found in a response, and compared as data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from filters.extract.answer import extract, without_thought
from filters.extract.phrases import announcements
from filters.grade.compare import Decision
from filters.text.code_blocks import placed_blocks

DEPTH = 100  # of JSON
JSON_LIMIT = 100_000  # characters of a response in which JSON is looked for
SCANNED = 2_000_000  # characters that may be read in vain while JSON is looked for

_BRACKET = re.compile(r"[\[\]{}]")
_BEGINS = re.compile(r"\{\s*[\"}]|\[\s*[\[{\"\]\-0-9tfnNI]")
_LEAD = re.compile(r"[\s*_`:=：$]*")  # noqa: RUF001
_BEHIND = re.compile(r"[*_`$]*(?:[.,;!?][*_`$]*(?=\s|\Z)|\s*\Z|[ \t]*\n)")  # a bare value: not 42 apples
_FOOTNOTE = re.compile(r"\[\d{1,3}\]")
_NO_FOOTNOTE = re.compile(r"(?:\A|\n|[:=,]|\b(?:is|are|be|gives|returns|or|and))[\s*_`]*\Z")  # before a list
_ANY = json.JSONDecoder(parse_int=str, parse_float=str)
_MANY = 8  # values of one response that are compared with one another


def find_json(response: str) -> str | None:
    """The text of the JSON value that a response gives for its answer, not yet checked; None where none is.

    The last fenced block counts, unless an answer is stated behind it: in a box or tag, after "the answer
    is". Without either it is the one object or array that is there. Of several different ones nobody knows
    which is meant: they come back together, as `is_several` tells. A response longer than JSON_LIMIT comes
    back as it is.
    """
    response = without_thought(response).strip()
    if len(response) > JSON_LIMIT or _is_json(response):
        return response
    blocks = [
        (block.text.strip(), end)
        for block, end in placed_blocks(response)
        if block.language == "json" or _is_json(block.text)
    ]
    fenced, end = blocks[-1] if blocks else (None, 0)
    return _stated(response[end:]) or fenced or _only(_structures(response))


def is_several(text: str) -> bool:
    """Whether it is JSON values one after the other."""
    try:
        _, end = _ANY.raw_decode(text)
        while text[end : end + 1].isspace():
            end += 1
        _ANY.raw_decode(text, end)
    except (ValueError, RecursionError):
        return False
    return True


def _is_json(text: str) -> bool:
    try:
        _ANY.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _stated(text: str) -> str | None:
    """JSON in a box, in a tag, or right behind words that announce an answer; a string has its quotes."""
    answer = extract(text)
    if answer and answer.how in ("boxed", "tag", "whole") and _is_json(answer.text):
        return answer.text
    for place in announcements(text):
        lead = _LEAD.match(text, place.end)
        start = lead.end() if lead else place.end
        try:
            _, end = _ANY.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if text[start] in '{["' or _BEHIND.match(text, end):
            return text[start:end]
    return None


def _only(values: list[str]) -> str | None:
    """The value where all are the same; else the first few of them, a line each."""
    last = values[-1] if values else None
    if last is None or (
        all(same_json(last, value).same for value in values[:_MANY]) and len(values) <= _MANY
    ):
        return last
    return "\n".join(values[:_MANY])


def _structures(text: str) -> list[str]:
    """The objects and arrays that are not a part of something else in brackets; that is text.

    [1] within a sentence is a footnote, where there is something else.
    """
    found = list(_spans(text))
    others = [
        (start, end)
        for start, end in found
        if not _FOOTNOTE.fullmatch(text, start, end) or _NO_FOOTNOTE.search(text[max(start - 20, 0) : start])
    ]
    return [text[start:end] for start, end in others or found]


def _spans(text: str) -> Iterator[tuple[int, int]]:
    at, depth, spent = 0, 0, 0
    while (bracket := _BRACKET.search(text, at)) and spent < SCANNED:
        at = bracket.end()
        if bracket[0] in "]}":
            depth = max(depth - 1, 0)
            continue
        if not _BEGINS.match(text, bracket.start()):
            depth += 1
            continue
        try:
            _, end = _ANY.raw_decode(text, bracket.start())
        except json.JSONDecodeError as e:  # which counts the lines before it
            depth, spent = depth + 1, spent + e.pos - bracket.start() + e.pos // 20
        except RecursionError:
            depth, spent = depth + 1, spent + SCANNED // 100
        else:
            at = end
            if depth == 0:
                yield bracket.start(), end


class _Refused(ValueError):
    """JSON that two readers may understand in two ways."""


def same_json(reference: str, answer: str) -> Decision:
    """Equal as data: the order of an object's keys is free, 1 is 1.0, a number is never a text or a truth.

    Refused are keys that come twice, NaN and infinity, and equal parts deeper than DEPTH.
    """
    values = []
    for text, unreadable in ((reference, "unreadable_reference"), (answer, "unreadable_answer")):
        try:
            values.append(_STRICT.decode(text))
        except (_Refused, RecursionError, ArithmeticError):
            return Decision(None, "json", "refused")
        except ValueError:
            several = unreadable == "unreadable_answer" and is_several(text)
            return Decision(None, "json", "ambiguous" if several else unreadable)
    try:
        return Decision(_same(values[0], values[1], DEPTH), "json")
    except _Refused:
        return Decision(None, "json", "refused")


def _same(a: Any, b: Any, depth: int) -> bool:
    if depth == 0:
        raise _Refused("nested too deeply")
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key], depth - 1) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y, depth - 1) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Refused("a key comes twice")
    return found


def _no_number(name: str) -> Any:
    raise _Refused(f"{name} is no JSON")


_STRICT = json.JSONDecoder(
    parse_int=Decimal, parse_float=Decimal, parse_constant=_no_number, object_pairs_hook=_object
)
