"""Converts a program's tests, as data sets write them, to the form `filters.sandbox.python_tests` reads.

Leaves out tests of functions that a data set's own runner calls by name (`fn_name`): they do not say for
certain what value is expected. As assertions they are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from filters.sandbox.python_tests import check_tests
from pipeline.ingest.files import Number

_FORM = "a list of assertions, a list of {input, output}, or an object with inputs and outputs"
_CALLED = ("fn_name", "func_name", "entry_point")
_STYLE = ("type", "testtype")


class Unusable(ValueError):
    """Why no tests can be made of a value."""


def as_metadata(value: Any) -> str:
    """The tests in a column's value, itself or JSON in a text, as a problem's metadata. Raises Unusable."""
    try:
        if isinstance(value, str) and not isinstance(value, Number) and value.strip():
            value = _decoded(value)
        form = _form(value)
        metadata = json.dumps(form, ensure_ascii=False)
        check_tests(metadata)
    except RecursionError:
        raise Unusable("the tests are nested too deeply") from None
    except ValueError as e:
        raise e if isinstance(e, Unusable) else Unusable(f"the tests cannot be read: {_line(e)}") from None
    return metadata


def as_json(value: Any) -> str:
    """A column's value as JSON, its numbers as the file writes them.

    Raises ValueError for what is no JSON, RecursionError for what is nested too deeply.
    """
    if isinstance(value, Number):
        if value.lstrip("-") in ("NaN", "Infinity"):
            raise ValueError(f"{value} is no JSON")
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(k))}: {as_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_json, value)) + "]"
    try:
        return json.dumps(value, allow_nan=False)
    except TypeError:
        raise ValueError(f"a {type(value).__name__} is no JSON") from None


def _decoded(text: str) -> Any:
    try:
        return json.loads(text, parse_int=Number, parse_float=Number)
    except json.JSONDecodeError as e:
        raise Unusable(f"the tests are a text that is not JSON: {e.msg} at character {e.pos + 1}") from None


def _form(value: Any) -> dict[str, Any]:
    if value is None or (isinstance(value, str | Sequence | Mapping) and not value):
        raise Unusable("no tests")
    if isinstance(value, Mapping):
        return _from_object(value)
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise Unusable(f"the tests are not {_FORM}")
    if all(_is_text(item) for item in value):
        return {"asserts": list(value)}
    if all(isinstance(item, Mapping) for item in value):
        return {"tests": [_pair(item, number) for number, item in enumerate(value, 1)]}
    raise Unusable(f"the tests are not {_FORM}")


def _from_object(value: Mapping[str, Any]) -> dict[str, Any]:
    if value.get("tests") or value.get("asserts"):
        return {key: value[key] for key in ("tests", "asserts", "setup") if value.get(key)}
    _refuse_calls(value)
    inputs, outputs = (_column(value, name) for name in ("input", "output"))
    if len(inputs) != len(outputs):
        raise Unusable(f"the tests have {len(inputs)} inputs and {len(outputs)} outputs")
    pairs = ({"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True))
    tests = [_pair(pair, number) for number, pair in enumerate(pairs, 1)]
    if not tests:
        raise Unusable("no tests")
    return {"tests": tests}


def _column(value: Mapping[str, Any], name: str) -> list[Any]:
    found = value.get(f"{name}s", value.get(name))
    if found is None:
        raise Unusable(f"the tests are not {_FORM}: there is no {name}s")
    return list(found) if isinstance(found, list | tuple) else [found]


def _pair(item: Mapping[str, Any], number: int) -> dict[str, str]:
    _refuse_calls(item)
    if item.get("output") is None:
        raise Unusable(f"test {number} has no output")
    given = item.get("input")
    return {
        "input": "" if given is None else _lines(given, f"the input of test {number}"),
        "output": _lines(item["output"], f"the output of test {number}"),
    }


def _refuse_calls(item: Mapping[str, Any]) -> None:
    called = next((key for key in _CALLED if item.get(key)), None)
    if called is None:
        called = next((key for key in _STYLE if item.get(key) and "std" not in str(item[key]).lower()), None)
    if called is not None:
        raise Unusable(
            f"the tests call a function ({called} = {str(item[called])[:50]!r}); write them as asserts"
        )


def _lines(value: Any, what: str) -> str:
    """A text; a list of texts is its lines, as some data sets write what goes through a program."""
    if isinstance(value, list | tuple) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return str(value)
    raise Unusable(f"{what} is a {type(value).__name__}, not a text")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Number)


def _line(error: ValueError) -> str:
    return " ".join(str(error).split())[:300]
