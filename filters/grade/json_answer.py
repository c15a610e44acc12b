"""Finds JSON answers in responses and compares them as data."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from filters.extract.answer import extract, strip_reasoning
from filters.extract.phrases import announcements
from filters.grade.decision import Decision
from filters.text.code_blocks import code_blocks

MAX_DEPTH = 100  # of nested values that are compared
JSON_LIMIT = 100_000  # characters of a response that is searched for JSON
MAX_SCANNED = 2_000_000  # characters of failed attempts to parse JSON

_BRACKET = re.compile(r"[\[\]{}]")
_JSON_START = re.compile(r"\{\s*[\"}]|\[\s*[\[{\"\]\-0-9tfnNI]")
_LEAD = re.compile(r"[\s*_`:=：$]*")  # noqa: RUF001
_VALUE_END = re.compile(r"[*_`$]*(?:[.,;!?][*_`$]*(?=\s|\Z)|\s*\Z|[ \t]*\n)")  # not in "42 apples"
_FOOTNOTE = re.compile(r"\[\d{1,3}\]")
_BEFORE_LIST = re.compile(r"(?:\A|\n|[:=,]|\b(?:is|are|be|gives|returns|or|and))[\s*_`]*\Z")
_LENIENT = json.JSONDecoder(parse_int=str, parse_float=str)
_MAX_VALUES = 8  # of one response that are compared with each other


def find_json(response: str) -> str | None:
    """Returns the text of the JSON value that a response gives as its answer, None if there is none.

    The last fenced block counts, unless an answer is stated after it in a box, a tag or a phrase. Without
    both, the only object or array counts. Several different ones are returned together, one per line, which
    `is_several` recognizes. A response longer than JSON_LIMIT is returned unchanged.
    """
    response = strip_reasoning(response).strip()
    if len(response) > JSON_LIMIT or _is_json(response):
        return response
    blocks = [
        (block.text.strip(), block.end)
        for block in code_blocks(response)
        if block.language == "json" or _is_json(block.text)
    ]
    fenced, end = blocks[-1] if blocks else (None, 0)
    return _stated(response[end:]) or fenced or _only(_structures(response))


def is_several(text: str) -> bool:
    """Whether a text is several JSON values in a row."""
    end = _value_end(text)
    return end is not None and _value_end(text[end:].lstrip()) is not None


def _is_json(text: str) -> bool:
    text = text.strip(" \t\r\n")
    return _value_end(text) == len(text)


def _value_end(text: str, start: int = 0) -> int | None:
    """Returns the end of the JSON value at this position, None if there is none."""
    try:
        return _LENIENT.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None


def _stated(text: str) -> str | None:
    """Returns JSON in a box, in a tag or after a phrase that announces an answer."""
    answer = extract(text)
    if answer and answer.how in ("boxed", "tag", "whole") and _is_json(answer.text):
        return answer.text
    for phrase in announcements(text):
        lead = _LEAD.match(text, phrase.end)
        start = lead.end() if lead else phrase.end
        end = _value_end(text, start)
        if end and (text[start] in '{["' or _VALUE_END.match(text, end)):
            return text[start:end]
    return None


def _only(values: list[str]) -> str | None:
    """Returns the value if all are equal, else the first few, one per line."""
    if not values:
        return None
    last, first = values[-1], values[:_MAX_VALUES]
    if len(values) <= _MAX_VALUES and all(compare_json(last, value).equal for value in first):
        return last
    return "\n".join(first)


def _structures(text: str) -> list[str]:
    """Returns the outermost objects and arrays.

    [1] in a sentence counts as a footnote, if there is another value.
    """
    found = list(_spans(text))
    others = [
        (start, end)
        for start, end in found
        if not _FOOTNOTE.fullmatch(text, start, end) or _BEFORE_LIST.search(text[max(start - 20, 0) : start])
    ]
    return [text[start:end] for start, end in others or found]


def _spans(text: str) -> Iterator[tuple[int, int]]:
    at, depth, spent = 0, 0, 0
    while (bracket := _BRACKET.search(text, at)) and spent < MAX_SCANNED:
        at = bracket.end()
        if bracket[0] in "]}":
            depth = max(depth - 1, 0)
            continue
        if not _JSON_START.match(text, bracket.start()):
            depth += 1
            continue
        try:
            _, end = _LENIENT.raw_decode(text, bracket.start())
        except json.JSONDecodeError as e:  # its constructor counts the lines before the error
            depth, spent = depth + 1, spent + e.pos - bracket.start() + e.pos // 20
        except RecursionError:
            depth, spent = depth + 1, spent + MAX_SCANNED // 100
        else:
            at = end
            if depth == 0:
                yield bracket.start(), end


class _Refused(ValueError):
    """JSON that parsers may read in different ways."""


def compare_json(reference: str, answer: str) -> Decision:
    """Compares as data: key order is free, 1 is 1.0, and a number never equals a string or a boolean.

    Refuses duplicate keys, NaN, infinity, and equal parts deeper than MAX_DEPTH.
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
        return Decision(_equal(values[0], values[1], MAX_DEPTH), "json")
    except _Refused:
        return Decision(None, "json", "refused")


def _equal(a: Any, b: Any, depth: int) -> bool:
    if depth == 0:
        raise _Refused("nested too deeply")
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key], depth - 1) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_equal(x, y, depth - 1) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Refused("duplicate key")
    return found


def _no_number(name: str) -> Any:
    raise _Refused(f"{name} is not JSON")


_STRICT = json.JSONDecoder(
    parse_int=Decimal, parse_float=Decimal, parse_constant=_no_number, object_pairs_hook=_object
)
