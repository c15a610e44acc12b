"""Keeps the other columns of a source's row as the JSON text that a problem and its traces carry.

Each value is text, a number, true or false, a list or an object, with numbers as the file writes them. Empty
ones are left out, so a row without a column equals a row where it is null.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from pipeline.ingest.files import Number

VALUE_LIMIT = 4 * 2**10  # bytes of one value as JSON that is kept without being named
ROW_LIMIT = 2**20  # bytes of all values of a row
_DEPTH = 20  # of lists and objects within a value
_DIGITS = 400  # of a number


class InvalidColumn(ValueError):
    """The columns of a row cannot be kept; the message has the reason."""


def all_but(row: Mapping[str, Any], used: Sequence[str], left_out: Counter[str]) -> str | None:
    """Returns the columns that hold none of the used ones; None if there are none.

    Counts in `left_out` a value that is over VALUE_LIMIT or cannot be written as JSON. Raises InvalidColumn
    if all values together are over ROW_LIMIT.
    """
    holders = {name if name in row else name.partition(".")[0] for name in used}
    found = {}
    for name in row.keys() - holders:
        try:
            text = _written(row[name], name)
        except InvalidColumn:
            text = None
        if text is None or len(text.encode()) > VALUE_LIMIT:
            left_out[name] += 1
        elif text != "null":
            found[name] = text
    return _joined(found)


def named(names: Sequence[str], lookup: Callable[[str], Any]) -> str | None:
    """Returns these columns, read by `lookup`. Raises InvalidColumn for a value that cannot be kept."""
    texts = {name: _written(lookup(name), name) for name in names}
    return _joined({name: text for name, text in texts.items() if text != "null"})


def _joined(texts: Mapping[str, str]) -> str | None:
    joined = ",".join(f"{_quoted(name)}:{texts[name]}" for name in sorted(texts))
    if (size := len(joined.encode())) > ROW_LIMIT:
        raise InvalidColumn(f"its columns take {size:,} bytes, over {ROW_LIMIT:,}: name fewer in `columns`")
    return f"{{{joined}}}" if joined else None


def _written(value: Any, name: str) -> str:
    """A value as JSON. Raises InvalidColumn where JSON has no such value."""
    try:
        if not name.strip():
            raise ValueError("it has no name")
        _quoted(name)
        return _json(value, 0)
    except ValueError as e:
        raise InvalidColumn(f"column {name[:100]!r}: {e}") from None


def _json(value: Any, depth: int) -> str:
    if depth > _DEPTH:
        raise ValueError("nested too deeply")
    if isinstance(value, Number | Decimal | float):
        return _number(str(value))
    if isinstance(value, Mapping):
        pairs = sorted((str(key), each) for key, each in value.items())
        return "{" + ",".join(f"{_quoted(key)}:{_json(each, depth + 1)}" for key, each in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_json(each, depth + 1) for each in value) + "]"
    if isinstance(value, datetime | date | time):
        return _quoted(value.isoformat())
    if isinstance(value, str):
        return _quoted(value)
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    raise ValueError(f"a {type(value).__name__} is not JSON")


def _number(text: str) -> str:
    """A number as it is written; null for NaN, which stands for a missing number in tables."""
    if text.lower() in ("nan", "-nan"):
        return "null"
    if "inf" in text.lower():
        raise ValueError(f"{text} is not JSON")
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return text


def _quoted(text: str) -> str:
    if "\0" in text:
        raise ValueError("the text has a NUL character in it")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("the text is not UTF-8")
    return json.dumps(text, ensure_ascii=False)
