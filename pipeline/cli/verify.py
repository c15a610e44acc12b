"""`retort verify`: grades a pair of reference and response, or a file of pairs, as the filter `correct` does.

It imports little, so that a thousand pairs take a second; math-verify is loaded when a pair needs it.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from filters.grade.grader import TIMEOUT, final_reference
from filters.policy import Policy
from filters.result import FilterResult
from filters.rules.correct import grade_response
from pipeline.errors import UserError
from pipeline.ingest.files import Number

_DATA = ("json", "instructions")  # types whose references are data
VERDICTS = {"passed": "correct", "failed": "incorrect", "undecided": "undecided"}


def print_verdict(gold: str, pred: str, answer_type: str, settings: Sequence[str]) -> None:
    """Prints the verdict on one pair, the two answers compared, the layer that decided, and the time."""
    result, milliseconds = _grade(gold, pred, answer_type, *_settings(settings))
    print(f"verdict    {VERDICTS[result.outcome]}" + (f" ({result.reason})" if result.reason else ""))
    print(f"reference  {final_reference(gold) if answer_type not in ('text', *_DATA) else gold}")
    print(f"answer     {result.evidence or 'none found'}")
    print(f"layer      {result.layer or 'none'}")
    print(f"time       {milliseconds:.1f} ms")


def grade_pairs(path: Path, answer_type: str, settings: Sequence[str], out: TextIO | None = None) -> None:
    """Writes each row of a JSONL file with its verdict, in order, one at a time.

    Adds `verdict` (correct, incorrect, undecided), `reason` (a code, "" when correct), `layer` and `ms`.
    Raises UserError for a line that is not an object with `gold` and `pred`.
    """
    timeout, policy = _settings(settings)
    out = out or sys.stdout
    try:
        for row, gold, pred in _pairs(path, answer_type):
            result, milliseconds = _grade(gold, pred, answer_type, timeout, policy)
            verdict = {"verdict": VERDICTS[result.outcome], "reason": result.reason, "layer": result.layer}
            out.write(json.dumps(row | verdict | {"ms": round(milliseconds, 3)}) + "\n")
        out.flush()
    except BrokenPipeError:  # `retort verify --pairs FILE | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def _grade(
    gold: str | None, pred: str, answer_type: Any, timeout: float, policy: Policy
) -> tuple[FilterResult, float]:
    start = time.perf_counter()
    result = grade_response(gold, pred, answer_type, timeout=timeout, policy=policy)
    return result, (time.perf_counter() - start) * 1000


def _pairs(path: Path, answer_type: str) -> Iterator[tuple[dict[str, Any], str | None, str]]:
    """Yields the rows of a file with reference and response; numbers are taken as written, null is None."""
    try:
        with path.open("rb") as lines:
            for n, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{path}:{n}"
                    row, written = _row(line, where)
                    yield row, _gold(written, answer_type, where), _text(written, "pred", where) or ""
    except OSError as e:
        raise UserError(f"--pairs: {path}: {e.strerror or e}") from None


def _row(line: bytes, where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parses a row twice: as data to write back, and with each number as the text it was written as."""
    try:
        row = json.loads(line, parse_float=_finite, parse_constant=_no_number)
        written = json.loads(line, parse_float=Number, parse_int=Number)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{where}: not a JSON object in one line: {e}") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: a {type(row).__name__}, not an object with "gold" and "pred"')
    return row, written


def _finite(text: str) -> float | str:
    """Parses a float; keeps the text of one that overflows, which json would write back as Infinity."""
    number = float(text)
    return number if math.isfinite(number) else text


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _gold(row: dict[str, Any], answer_type: str, where: str) -> str | None:
    """Returns the reference as text: data as JSON for a type whose references are data."""
    value = row.get("gold")
    if answer_type in _DATA and isinstance(value, dict | list | bool):
        from pipeline.ingest.code_tests import as_json  # imported here because it loads pydantic

        return as_json(value)
    return str(value) if isinstance(value, bool) else _text(row, "gold", where)


def _text(row: dict[str, Any], key: str, where: str) -> str | None:
    if key not in row:
        raise UserError(f"{where}: no {key!r}; each row needs 'gold' and 'pred'")
    value = row[key]
    if value is None or isinstance(value, str):
        return None if value is None else str(value)
    raise UserError(f"{where}: {key!r} is a {type(value).__name__}, not a text or a number")


def _settings(settings: Sequence[str]) -> tuple[float, Policy]:
    """Parses NAME=VALUE parameters of the filter `correct` into its timeout in seconds and its policy."""
    given: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"{setting!r}: settings are given as NAME=VALUE, e.g. rounding_digits=3")
        try:
            given[name] = json.loads(value.lower() if value in ("True", "False") else value)
        except ValueError:
            given[name] = value
    if given:
        from filters.table import check_rules

        check_rules({"correct": given})
    if programs := [name for name in given if name in ("code_seconds", "code_memory_mb", "sandbox")]:
        raise UserError(f"{programs[0]}: no program is run here: its tests are stored with a run's problems")
    return given.pop("timeout", TIMEOUT), Policy(**given)
