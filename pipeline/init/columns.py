"""Guesses how the columns of a file are to be read: the settings of a source for it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from filters.extract.answer import extract
from pipeline.config.ingest import Ingest
from pipeline.errors import UserError
from pipeline.ingest import files, sources, traces
from pipeline.ingest.files import Record
from pipeline.rows import AnswerType

ROWS = 100  # that are looked at
LONG = 300  # characters of a reference that is no short answer
# What columns are usually called, the likeliest name first.
QUESTION = ("question", "problem", "query", "instruction", "prompt", "input", "text", "messages")
ANSWER = (
    *("answer", "final_answer", "expected_answer", "correct_answer", "reference", "ground_truth", "gold"),
    *("target", "label", "solution", "output"),
)
CHOICES = ("choices", "options")
INSTRUCTIONS = ("instruction_id_list",)
TESTS = ("tests", "test_list", "test_cases", "unit_tests")
MESSAGES = ("messages", "conversations", "conversation")
RESPONSE = (
    "response",
    "responses",
    "generations",
    "generation",
    "generated_solution",
    "completion",
    "attempt",
)
OF_TRACES = {
    "reasoning": ("reasoning", "thinking", "reasoning_content", "thinking_trajectories"),
    "finish_reason": ("finish_reason", "is_reasoning_complete"),
    "teacher_column": ("teacher", "generation_model", "model"),
}

_YES_NO = re.compile(r"yes|no|true|false", re.IGNORECASE)
_LETTER = re.compile(r"\(?[A-Ja-j]\)?\.?")
_FORMULA = re.compile(r"\d|\\[a-z]|[=^+]")


def source_of(path: str, given: Mapping[str, str | None]) -> dict[str, Any]:
    """Returns the settings of a source for the file.

    `given`: question, answer and answer_type where the user names them; None to guess. Raises UserError if
    no column looks like a question, or the file cannot be read so.
    """
    rows = [row.values for path in files.find(path)[:1] for row in _records(path)]
    if not rows:
        raise UserError(f"{path}: no row of it can be read")
    names = list(dict.fromkeys(name for row in rows for name in row))
    found = _traces(names, rows) or _problems(names, given)
    source: dict[str, Any] = {"kind": "file", "path": path} | found
    if given["answer"] is not None:
        source["reference"] = given["answer"]
    if given["question"] is not None:
        source["question"] = given["question"]
    if "choices" in source and source["reference"]:
        source["reference_is"] = _reference_is([str(row.get(source["reference"])) for row in rows])
    return source | {"answer_type": given["answer_type"] or _answer_type(source)}


def _records(path: Any) -> list[Record]:
    return [row for row in islice(files.records(path), ROWS) if isinstance(row, Record)]


def first_problem(source: Mapping[str, Any]) -> Any:
    """The first problem as ingest reads it. Raises UserError for settings that do not fit the file."""
    problems = _read(source)
    if not problems:
        raise UserError(f"{source['path']}: no question in the column {source['question']!r}")
    return problems[0]


def _read(source: Mapping[str, Any]) -> list[Any]:
    table = Ingest.model_validate({"sources": [source]}).sources[0]
    sources.check(table)
    read: Any = traces.read if source["kind"] == "traces" else sources.read
    rows = [getattr(row, "problem", row) for row in islice(read(table, 0, 0), ROWS)]
    return [row for row in rows if hasattr(row, "question")]


def _column(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    by_name = {name.casefold(): name for name in reversed(names)}
    return next((by_name[name] for name in wanted if name in by_name), None)


def _problems(names: Sequence[str], given: Mapping[str, str | None]) -> dict[str, Any]:
    question = given["question"] or _column(names, (*QUESTION, *MESSAGES))
    if question is None:
        raise UserError(f"no column looks like a question; name it with --question: {', '.join(names)[:500]}")
    others = [name for name in names if name != question]
    if tests := _column(others, TESTS):
        return {"question": question, "tests": tests, "answer_type": "python"}
    if _column(others, INSTRUCTIONS):
        return {"question": question, "reference": INSTRUCTIONS[0], "answer_type": "instructions"}
    found: dict[str, Any] = {"question": question, "reference": _column(others, ANSWER) or ""}
    if choices := _column(others, CHOICES):
        found |= {"choices": choices, "answer_type": "choice"}
    return found


def _reference_is(values: Sequence[str]) -> str:
    """How references name one of the choices."""
    if _most(values, _LETTER.fullmatch):
        return "letter"
    return "index" if _most(values, str.isdecimal) else "text"


def _traces(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The settings of a source of traces, if the rows hold responses of a model."""
    messages, response = _column(names, MESSAGES), _column(names, RESPONSE)
    if messages and any(_answered(row.get(messages)) for row in rows):
        found: dict[str, Any] = {"messages": messages}
    elif response and (question := _column([n for n in names if n != response], QUESTION)):
        found = {"question": question, "response": response}
    else:
        return None
    others = [name for name in names if name not in found.values()]
    found |= {name: column for name, usual in OF_TRACES.items() if (column := _column(others, usual))}
    if "teacher_column" not in found:
        found["teacher"] = "unknown"
    return {"kind": "traces", **found, "reference": _column(others, ANSWER) or ""}


def _answered(turns: Any) -> bool:
    """Whether a conversation has an assistant's turn."""
    said = turns if isinstance(turns, list) else []
    return any(isinstance(t, dict) and t.get("role", t.get("from")) in ("assistant", "gpt") for t in said)


def _answer_type(source: Mapping[str, Any]) -> AnswerType:
    """The type that fits the references of most rows."""
    if "answer_type" in source or not source["reference"]:
        return source.get("answer_type", "math")
    read = _read({**source, "answer_type": "json"})  # which takes references of every form
    values = [problem.reference.strip() for problem in read if problem.reference]
    if _most(values, _YES_NO.fullmatch):
        return "yes_no"
    if _most(values, _LETTER.fullmatch):
        return "choice"
    if _most(values, _is_json):
        return "json"
    if _most(values, _states_an_answer):
        return "math"
    return "text"


def _most(values: Sequence[str], fits: Any) -> bool:
    return bool(values) and sum(bool(fits(value)) for value in values) >= 0.9 * len(values)


def _is_json(text: str) -> bool:
    try:
        return text.startswith(("{", "[{", '["')) and json.loads(text) is not None
    except (ValueError, RecursionError):
        return False


def _states_an_answer(text: str) -> bool:
    """Whether a text is a number or formula, or a worked solution that ends with one."""
    answer = extract(text)
    if answer and answer.how in ("boxed", "tag", "phrase"):
        return True
    return len(text) <= LONG and bool(_FORMULA.search(text))
