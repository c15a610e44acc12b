"""Converts a program's tests, as data sets write them, to the form that filters.sandbox.python_tests reads.

Tests that call a function by name (`fn_name`) through a data set's own runner are rejected: they do not
define the expected value precisely. Written as assertions they are accepted.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from typing import Any

from filters.sandbox.asserts import asserts_something
from filters.sandbox.python_tests import check_tests
from pipeline.ingest.files import Number

_FORM = "a list of assertions, a list of {input, output}, or an object with inputs and outputs"
_FUNCTION_FIELDS = ("fn_name", "func_name", "entry_point")
_STYLE_FIELDS = ("type", "testtype")


class InvalidTests(ValueError):
    """A value cannot be converted to tests; the message has the reason."""


def as_metadata(value: Any) -> str:
    """Returns a problem's metadata from a column of tests, plain or as JSON text. Raises InvalidTests."""
    try:
        if _is_text(value) and value.strip():
            value = _decoded(value)
        metadata = json.dumps(_converted(value), ensure_ascii=False)
        check_tests(metadata)
    except RecursionError:
        raise InvalidTests("the tests are nested too deeply") from None
    except InvalidTests:
        raise
    except ValueError as e:
        raise InvalidTests(f"the tests cannot be read: {' '.join(str(e).split())[:300]}") from None
    return metadata


def with_check(code: Any, start: str, name: Any) -> dict[str, Any]:
    """Returns HumanEval's tests: code that defines check(candidate), to be called with the function `name`.

    `start` is the beginning of the program. What it defines but this function goes with the tests.
    """
    if not (_is_text(code) and _is_text(name) and name.isidentifier()):
        raise InvalidTests("the tests are not code with the name of a function")
    try:
        begun, tests = ast.parse(start), ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise InvalidTests(f"the question does not begin a program, or the tests are not code: {e}") from None
    if not any(getattr(node, "name", None) == "check" and asserts_something(node) for node in tests.body):
        raise InvalidTests("the tests do not define check(candidate) with assertions")
    begun.body = [node for node in begun.body if getattr(node, "name", None) != name]
    return {"setup": f"{ast.unparse(begun)}\n{code}", "asserts": [f"assert check({name}) is None"]}


def as_json(value: Any) -> str:
    """Returns a column's value as JSON, with numbers as the file writes them.

    Raises ValueError for values that JSON lacks, RecursionError for deeply nested ones.
    """
    if isinstance(value, Number):
        if value.lstrip("-") in ("NaN", "Infinity"):
            raise ValueError(f"{value} is not JSON")
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(k))}: {as_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_json, value)) + "]"
    try:
        return json.dumps(value, allow_nan=False)
    except TypeError:
        raise ValueError(f"a {type(value).__name__} is not JSON") from None


def _decoded(text: str) -> Any:
    try:
        return json.loads(text, parse_int=Number, parse_float=Number)
    except json.JSONDecodeError as e:
        raise InvalidTests(
            f"the tests are a text that is not JSON: {e.msg} at character {e.pos + 1}"
        ) from None


def _converted(value: Any) -> dict[str, Any]:
    if value is None or (isinstance(value, str | Sequence | Mapping) and not value):
        raise InvalidTests("no tests")
    if isinstance(value, Mapping):
        return _from_object(value)
    if not isinstance(value, str) and isinstance(value, Sequence):
        if all(_is_text(item) for item in value):
            return {"asserts": list(value)}
        if all(isinstance(item, Mapping) for item in value):
            return _from_pairs(value)
    raise InvalidTests(f"the tests are not {_FORM}")


def _from_object(value: Mapping[str, Any]) -> dict[str, Any]:
    if value.get("tests") or value.get("asserts"):
        return {key: value[key] for key in ("tests", "asserts", "setup") if value.get(key)}
    _reject_calls(value)
    inputs, outputs = (_column(value, name) for name in ("input", "output"))
    if len(inputs) != len(outputs):
        raise InvalidTests(f"the tests have {len(inputs)} inputs and {len(outputs)} outputs")
    if not inputs:
        raise InvalidTests("no tests")
    return _from_pairs([{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)])


def _column(value: Mapping[str, Any], name: str) -> list[Any]:
    found = value.get(f"{name}s", value.get(name))
    if found is None:
        raise InvalidTests(f"the tests are not {_FORM}: there is no {name}s")
    return list(found) if isinstance(found, list | tuple) else [found]


def _from_pairs(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    tests = []
    for number, pair in enumerate(pairs, start=1):
        _reject_calls(pair)
        if pair.get("output") is None:
            raise InvalidTests(f"test {number} has no output")
        given = pair.get("input")
        text = "" if given is None else _lines(given, f"the input of test {number}")
        tests.append({"input": text, "output": _lines(pair["output"], f"the output of test {number}")})
    return {"tests": tests}


def _reject_calls(item: Mapping[str, Any]) -> None:
    styles = (key for key in _STYLE_FIELDS if item.get(key) and "std" not in str(item[key]).lower())
    field = next((key for key in _FUNCTION_FIELDS if item.get(key)), None) or next(styles, None)
    if field is not None:
        call = f"{field} = {str(item[field])[:50]!r}"
        raise InvalidTests(f"the tests call a function ({call}); write them as asserts")


def _lines(value: Any, what: str) -> str:
    """Returns a text, or joins a list of lines, which some data sets write for standard input and output."""
    if isinstance(value, list | tuple) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
        return str(value)
    raise InvalidTests(f"{what} is a {type(value).__name__}, not a text")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not isinstance(value, Number)
