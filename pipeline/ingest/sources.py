"""Sources of problems: files, data sets, reasoning-gym tasks; all come out as Problem or as BadRow.

A column named with a dot reaches inside: "problem.text", "prompt.0.content". Of a conversation the last turn
of the user is the question. An answer that is a number becomes text as the file writes it, true and false
become "True" and "False", of a list of one it is that one. Other columns of a row are not kept.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from filters.grade.compare import is_missing
from pipeline.config.sources import DatasetSource, FileSource, GymSource, Source
from pipeline.errors import UserError
from pipeline.ingest import code_tests, files, hub, reasoning_gym
from pipeline.ingest.files import BadRow, Number, Record
from pipeline.ingest.lines import RECORD_LIMIT
from pipeline.rows import AnswerType, Problem, Split

_INDEX = re.compile(r"\.\d+(?:\.|$)")  # a place in a list, in the name of a column
GYM_TRIES = 3  # entries of a task of which one must be good before the work starts


def check(source: Source) -> None:
    """What can be known before any work. Raises UserError: what is wrong and what would be right."""
    name_of(source)
    if isinstance(source, GymSource):
        tried = list(
            reasoning_gym.entries(source.task, source.settings, min(GYM_TRIES, source.size), source.seed)
        )
        if all(isinstance(entry, str) for entry in tried):
            raise UserError(f"reasoning-gym task {source.task!r} cannot be used: {tried[0]}")
    elif isinstance(source, DatasetSource):
        if not _rows_fit(source, f"data set {source.path}", hub.head(source)):
            raise UserError(f"data set {source.path}: no rows in it")
    else:
        # every file is looked at: the columns may differ from one to the next
        found = [_rows_fit(source, str(path), files.head(path)) for path in files.find(source.path)]
        if not any(found):
            raise UserError(f"{source.path}: no rows in it")


def _rows_fit(source: FileSource, where: str, rows: Iterator[Record | BadRow]) -> bool:
    """Whether there are rows. Raises UserError when a column is in none of those that can be read."""
    missing, there, any_row = _columns(source), dict[str, None](), False
    for row in rows:
        any_row = True
        if isinstance(row, Record):
            there.update(dict.fromkeys(_paths(row.values)))
            # A list may be of any length: what stands before the place in it has to be there.
            missing = tuple(c for c in missing if not _lookup(row.values, _INDEX.split(c)[0])[0])
        if not missing:
            return True
    if there:
        raise UserError(f"{where}: no column {missing[0]!r}; there are {', '.join(there)[:500]}")
    return any_row


def fingerprint(source: Source) -> dict[str, Any]:
    """What identifies the rows of a source; a part of the identity of what is ingested."""
    if isinstance(source, GymSource):
        from importlib.metadata import version

        settings = source.model_dump(mode="json", include={"task", "settings", "size", "seed"})
        return {**settings, "reasoning_gym": version("reasoning-gym")}
    if isinstance(source, DatasetSource):
        return hub.fingerprint(source)
    return {"files": {str(path): _sha256(path) for path in files.find(source.path)}}


def read(source: Source, held_out: float, seed: int) -> Iterator[Problem | BadRow]:
    """The rows of a source, in its order; `held_out` and `seed` decide the split of those split by id."""
    name = name_of(source)
    for record in _records(source):
        if isinstance(record, BadRow):
            yield record
            continue
        try:
            row: Problem | BadRow = _problem(source, name, record, held_out, seed)
        except _Unusable as e:
            row = BadRow(record.origin, str(e))
        yield row


def name_of(source: Source) -> str:
    """What the source is called in every row: its name, or the file's, the data set's, the task's."""
    if source.name is not None:
        return source.name
    if isinstance(source, GymSource):
        text = source.task
    else:
        path = Path(source.path)
        own = path.name if isinstance(source, DatasetSource) else files.without_suffix(path.name)
        text = own.strip("*?[]._-") or path.resolve().parent.name  # "train/*.jsonl" is called train
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")
    if not name:
        raise UserError(f"source {text!r}: no name can be made of it; give it one: name = ...")
    return name


def problem_id(question: str) -> str:
    """Hash of the question's text; the same however its accents are composed and its white space is set."""
    text = " ".join(unicodedata.normalize("NFC", question).split())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_of(problem_id: str, held_out: float, seed: int) -> Split:
    """By the id alone, so a problem stays where it is however its source grows."""
    place = int.from_bytes(hashlib.sha256(f"held_out {seed} {problem_id}".encode()).digest()[:8], "big")
    return "held_out" if place < held_out * 2**64 else "train"


def _records(source: Source) -> Iterator[Record | BadRow]:
    if isinstance(source, GymSource):
        for index, entry in enumerate(
            reasoning_gym.entries(source.task, source.settings, source.size, source.seed)
        ):
            origin = f"{source.task} entry {index}"
            yield BadRow(origin, entry) if isinstance(entry, str) else Record(origin, entry)
        return
    if isinstance(source, DatasetSource):
        found = hub.records(source, _columns(source))
    else:
        found = (r for path in files.find(source.path) for r in files.records(path, _columns(source)))
    yield from islice(found, source.limit)


def _columns(source: FileSource) -> tuple[str, ...]:
    return tuple(filter(None, (source.question, source.reference, source.tests)))


class _Unusable(Exception):
    """Why no problem can be made of a row."""


def _problem(source: Source, name: str, record: Record, held_out: float, seed: int) -> Problem:
    kind: AnswerType
    metadata: str | None
    row = record.values
    if isinstance(source, GymSource):
        kind, metadata = "reasoning_gym", json.dumps(row)
        question, reference = _question(row, "question"), _reference(row, "answer")
    else:
        kind, metadata = source.answer_type, _tests(row, source.tests) if source.tests else None
        question = _question(row, source.question)
        reference = _reference(row, source.reference, kind) if source.reference else None
    key = problem_id(question)
    return Problem(
        id=key,
        question=question,
        reference=reference,
        answer_type=kind,
        source=name,
        metadata=metadata,
        split=split_of(key, held_out, seed) if source.split == "by_id" else source.split,
        origin=record.origin,
    )


def _question(row: dict[str, Any], column: str) -> str:
    _, value = _lookup(row, column)
    if isinstance(value, list):
        value = _last_of_user(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _Unusable("no question")
    if not isinstance(value, str) or isinstance(value, Number):
        raise _Unusable(f"the question is {_kind(value)}, not a text")
    return _sound("the question", value)


def _last_of_user(turns: list[Any]) -> Any:
    """The text of the user's last turn in a list of messages: a text, or a list of parts that are texts."""
    told = [turn for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
    if not told:
        raise _Unusable("the question is a list, without a message of the user in it")
    content = told[-1].get("content")
    if not isinstance(content, list):
        return content
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        raise _Unusable("the question has a part that is no text")
    return "\n".join(texts)


def _reference(row: dict[str, Any], column: str, kind: AnswerType = "text") -> str | None:
    """The right answer as text, as JSON where it is data; None where the row has none."""
    _, value = _lookup(row, column)
    if kind == "json" and isinstance(value, dict | list | bool):
        try:
            value = code_tests.as_json(value)
        except (ValueError, RecursionError) as e:
            raise _Unusable(f"the answer cannot be written as JSON: {str(e)[:200]}") from None
    if isinstance(value, list):
        if len(value) > 1:
            raise _Unusable(f"{len(value)} answers in a list: name one, such as {column}.0")
        value = value[0] if value else None
    if isinstance(value, bool | int | float | Decimal):
        value = str(value)
    if value is None or value in ("nan", "NaN"):  # how tables say that a number is missing
        return None
    if kind in ("math", "number", "choice") and isinstance(value, str) and is_missing(value, words=False):
        return None
    if not isinstance(value, str):
        raise _Unusable(f"the answer is {_kind(value)}, not a text or a number")
    return _sound("the answer", value) if value.strip() else None


def _tests(row: dict[str, Any], column: str) -> str:
    """The tests of a program, as a problem's metadata."""
    _, value = _lookup(row, column)
    try:
        return _sound("the text of the tests", code_tests.as_metadata(value))
    except code_tests.Unusable as e:
        raise _Unusable(str(e)) from None


def _sound(what: str, text: str) -> str:
    """The text itself, where it is one that every later step can take."""
    if "\0" in text:
        raise _Unusable(f"{what} has a NUL character in it")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise _Unusable(f"{what} is not UTF-8") from None
    if size > RECORD_LIMIT:
        raise _Unusable(f"{what} is longer than {RECORD_LIMIT >> 20} MB")
    return str(text)


def _lookup(row: dict[str, Any], column: str) -> tuple[bool, Any]:
    """Whether the column is there, and its value. A column called so goes before one inside another."""
    if column in row:
        return True, row[column]
    value: Any = row
    for step in column.split("."):
        if isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, dict) and step in value:
            value = value[step]
        else:
            return False, None
    return True, value


def _paths(row: dict[str, Any], depth: int = 3) -> Iterator[str]:
    """The names of a row's columns, of those inside others too: "problem.text"."""
    for name, value in row.items():
        if isinstance(value, dict) and depth > 1:
            yield from (f"{name}.{below}" for below in _paths(value, depth - 1))
        else:
            yield name


def _kind(value: Any) -> str:
    if isinstance(value, Number | int | float | Decimal) and not isinstance(value, bool):
        return "a number"
    return {dict: "an object", list: "a list", bool: "true or false"}.get(type(value), type(value).__name__)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
