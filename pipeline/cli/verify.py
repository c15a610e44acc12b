"""`retort verify`: the verifier's word on one pair of answers, or on a file of them, for people who doubt it.

It judges as the filter `correct` does: `pred` is a response in which the answer is looked for. It loads
little, so that a thousand pairs take a second; math-verify comes in only where a pair needs it.
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
from filters.rules.correct import judge_response
from pipeline.errors import UserError
from pipeline.ingest.files import Number

VERDICTS = {"passed": "correct", "failed": "incorrect", "undecided": "undecided"}


def print_verdict(gold: str, pred: str, answer_type: str, settings: Sequence[str]) -> None:
    """Print the verdict on one pair, what was compared, the layer that decided and the time."""
    finding, milliseconds = _judge(gold, pred, answer_type, *_settings(settings))
    print(f"verdict    {VERDICTS[finding.outcome]}" + (f" ({finding.reason})" if finding.reason else ""))
    print(f"reference  {final_reference(gold) if answer_type not in ('text', 'json') else gold}")
    print(f"answer     {finding.evidence or 'none found'}")
    print(f"layer      {finding.layer or 'none'}")
    print(f"time       {milliseconds:.1f} ms")


def judge_pairs(path: Path, answer_type: str, settings: Sequence[str], out: TextIO | None = None) -> None:
    """Write each row of a JSONL file back with its verdict, in order, one at a time.

    Added are `verdict` (correct, incorrect or unknown), `reason` (a code, "" when correct), `layer` and `ms`.
    Raises UserError for a line that is no object with `gold` and `pred`.
    """
    timeout, policy = _settings(settings)
    out = out or sys.stdout
    try:
        for row, gold, pred in _pairs(path, answer_type):
            finding, milliseconds = _judge(gold, pred, answer_type, timeout, policy)
            verdict = {"verdict": VERDICTS[finding.outcome], "reason": finding.reason, "layer": finding.layer}
            out.write(json.dumps(row | verdict | {"ms": round(milliseconds, 3)}) + "\n")
        out.flush()
    except BrokenPipeError:  # nobody reads on: `retort verify --pairs FILE | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


def _judge(
    gold: str | None, pred: str, answer_type: Any, timeout: float, policy: Policy
) -> tuple[FilterResult, float]:
    start = time.perf_counter()
    finding = judge_response(gold, pred, answer_type, timeout=timeout, policy=policy)
    return finding, (time.perf_counter() - start) * 1000


def _pairs(path: Path, answer_type: str) -> Iterator[tuple[dict[str, Any], str | None, str]]:
    """The rows of a file with their two texts; a number counts as it is written, null as nothing."""
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
    """A row as data to give back, and with its numbers as they are written."""
    try:
        row = json.loads(line, parse_float=_finite, parse_constant=_no_number)
        written = json.loads(line, parse_float=Number, parse_int=Number)
    except (ValueError, RecursionError) as e:
        raise UserError(f"{where}: not a JSON object in one line: {e}") from None
    if not isinstance(row, dict):
        raise UserError(f'{where}: a {type(row).__name__}, not an object with "gold" and "pred"')
    return row, written


def _finite(text: str) -> float | str:
    """A number; the text of one that no float holds, as 1e999 would be written back as Infinity."""
    number = float(text)
    return number if math.isfinite(number) else text


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _gold(row: dict[str, Any], answer_type: str, where: str) -> str | None:
    """The reference; as JSON where it is data, which only JSON can be compared with."""
    value = row.get("gold")
    if answer_type == "json" and isinstance(value, dict | list | bool):
        from pipeline.ingest.code_tests import as_json  # here, because it loads pydantic

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
    """Parameters of the filter `correct`, as NAME=VALUE."""
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
        from filters import check_rules

        check_rules({"correct": given})
    if programs := [name for name in given if name in ("code_seconds", "code_memory_mb", "sandbox")]:
        raise UserError(f"{programs[0]}: no program is run here; its tests are in a run's traces")
    return given.pop("timeout", TIMEOUT), Policy(**given)
