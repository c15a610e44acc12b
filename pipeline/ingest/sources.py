"""Reads files, data sets and reasoning-gym tasks: each row becomes a Problem or a BadRow.

A dotted column name reaches inside: "problem.text", "prompt.0.content". In a conversation the question is the
user's last turn. A reference that is a number becomes text as the file writes it, true and false become
"True" and "False", and a list of one item becomes that item. `columns.py` keeps the other columns.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

from filters.grade.compare import is_missing
from pipeline import generations
from pipeline.config.ingest import IngestSource, TracesSource, read_by_datasets
from pipeline.config.sources import FileSource, GymSource
from pipeline.errors import UserError
from pipeline.ingest import code_tests, columns, composed, files, hub, instructions, reasoning_gym
from pipeline.ingest.composed import UnusableRow, checked_text, lookup
from pipeline.ingest.files import BadRow, Number, Record
from pipeline.rows import AnswerType, Problem, Split

GYM_CHECKED = 3  # entries of a task, one of which must be usable

_LIST_INDEX = re.compile(r"\.\d+(?:\.|$)")  # in a column name


def check(source: IngestSource) -> None:
    """Raises UserError for mistakes that can be found before any work."""
    name_of(source)
    if isinstance(source, GymSource):
        size = min(GYM_CHECKED, source.size)
        tried = list(reasoning_gym.entries(source.task, source.settings, size, source.seed))
        if all(isinstance(entry, str) for entry in tried):
            raise UserError(f"reasoning-gym task {source.task!r} cannot be used: {tried[0]}")
        return
    if source.arguments:
        instructions.require()
    if read_by_datasets(source):
        if not _check_columns(source, f"data set {source.path}", hub.head(source)):
            raise UserError(f"data set {source.path}: no rows in it")
    else:
        # Every file is checked: the columns may differ between files.
        found = [_check_columns(source, str(path), files.head(path)) for path in files.find(source.path)]
        if not any(found):
            raise UserError(f"{source.path}: no rows in it")


def _check_columns(source: FileSource, where: str, rows: Iterator[Record | BadRow]) -> bool:
    """Returns whether there are rows. Raises UserError if a column is missing from every readable one."""
    missing, seen, any_row = _required(source), dict[str, None](), False
    for row in rows:
        any_row = True
        if isinstance(row, Record):
            seen.update(dict.fromkeys(_column_names(row.values)))
            # Lists vary in length, so only the part before an index has to exist.
            missing = tuple(c for c in missing if not lookup(row.values, _LIST_INDEX.split(c)[0])[0])
        if not missing:
            return True
    if seen:
        raise UserError(f"{where}: no column {missing[0]!r}; there are {', '.join(seen)[:500]}")
    return any_row


def fingerprint(source: IngestSource) -> dict[str, Any]:
    """Returns the identity of a source's rows."""
    if isinstance(source, GymSource):
        from importlib.metadata import version

        settings = source.model_dump(mode="json", include={"task", "settings", "size", "seed"})
        return {**settings, "reasoning_gym": version("reasoning-gym")}
    if read_by_datasets(source):
        return hub.fingerprint(source)
    return {"files": {str(path): files.sha256(path) for path in files.find(source.path)}}


def read(
    source: IngestSource, held_out: float, seed: int, left_out: Counter[str] | None = None
) -> Iterator[Problem | BadRow]:
    """Yields the rows of a source in order. `held_out` and `seed` decide the split of sources split by id.

    Counts in `left_out` the values, by column, that `columns = "all"` does not keep.
    """
    name = name_of(source)
    left_out = Counter() if left_out is None else left_out
    for record in records(source):
        if isinstance(record, BadRow):
            yield record
            continue
        try:
            row: Problem | BadRow = problem_of(source, name, record, held_out, seed, left_out)
        except UnusableRow as e:
            row = BadRow(record.origin, str(e))
        yield row


def name_of(source: IngestSource) -> str:
    """Returns the source's name, or one made from its file, data set or task."""
    if source.name is not None:
        return source.name
    if isinstance(source, GymSource):
        text = source.task
    else:
        path = Path(source.path)
        stem = path.name if read_by_datasets(source) else files.without_suffix(path.name)
        text = stem.strip("*?[]._-") or path.resolve().parent.name  # "train/*.jsonl" is named train
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("._-")
    if not name:
        raise UserError(f"source {text!r}: no name can be made of it; give it one: name = ...")
    return name


def problem_id(question: str) -> str:
    """Returns a hash of the question that ignores Unicode composition and white space."""
    text = " ".join(unicodedata.normalize("NFC", question).split())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def split_of(problem_id: str, held_out: float, seed: int) -> Split:
    """Decides by the id alone, so a problem keeps its split when its source grows."""
    point = int.from_bytes(hashlib.sha256(f"held_out {seed} {problem_id}".encode()).digest()[:8], "big")
    return "held_out" if point < held_out * 2**64 else "train"


def records(source: IngestSource) -> Iterator[Record | BadRow]:
    if isinstance(source, GymSource):
        entries = reasoning_gym.entries(source.task, source.settings, source.size, source.seed)
        for index, entry in enumerate(entries):
            origin = f"{source.task} entry {index}"
            yield BadRow(origin, entry) if isinstance(entry, str) else Record(origin, entry)
        return
    if read_by_datasets(source):
        found = hub.records(source, _columns(source))
    else:
        found = (r for path in files.find(source.path) for r in files.records(path, _columns(source)))
    yield from islice(found, source.limit)


def _columns(source: FileSource) -> tuple[str, ...]:
    """The columns to read, as far as they exist; () for all."""
    if source.columns == "all":
        return ()
    by_itself = isinstance(source, TracesSource) and source.generation_column is None
    return (*_required(source), *((generations.COLUMN,) if by_itself else ()))


def _required(source: FileSource) -> tuple[str, ...]:
    """The columns that must exist."""
    named = source.columns if source.columns != "all" else ()
    return tuple(dict.fromkeys((*source.used_columns, *source.template_columns, *named)))


def problem_of(
    source: IngestSource, name: str, record: Record, held_out: float, seed: int, left_out: Counter[str]
) -> Problem:
    kind: AnswerType
    metadata: str | None
    other: str | None
    row = record.values
    if isinstance(source, GymSource):
        kind, metadata, other = "reasoning_gym", json.dumps(row), None
        question, reference = _question(row, "question"), _reference(row, "answer")
    else:
        kind, metadata = source.answer_type, _tests(row, source)
        question = _question(row, source.question)
        reference = _reference(row, source.reference, kind, source.arguments) if source.reference else None
        other = _other_columns(source, row, left_out)
        if source.choices is not None or source.question_template is not None:
            question, reference = composed.question_and_reference(source, row, question, reference)
    key = problem_id(question)
    return Problem(
        id=key,
        question=question,
        reference=reference,
        answer_type=kind,
        source=name,
        metadata=metadata,
        columns=other,
        split=split_of(key, held_out, seed) if source.split == "by_id" else source.split,
        origin=record.origin,
    )


def _question(row: dict[str, Any], column: str) -> str:
    _, value = lookup(row, column)
    if isinstance(value, list):
        value = _last_user_turn(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UnusableRow("no question")
    if not isinstance(value, str) or isinstance(value, Number):
        raise UnusableRow(f"the question is {kind_of(value)}, not a text")
    return checked_text("the question", value)


def _last_user_turn(turns: list[Any]) -> Any:
    """Returns the content of the user's last message; a list of text parts is joined."""
    messages = [turn for turn in turns if isinstance(turn, dict) and turn.get("role") == "user"]
    if not messages:
        raise UnusableRow("the question is a list without a user message")
    content = messages[-1].get("content")
    if not isinstance(content, list):
        return content
    parts = [part.get("text") if isinstance(part, dict) else part for part in content]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) < len(parts):
        raise UnusableRow("the question has a part that is not text")
    return "\n".join(texts)


def _reference(
    row: dict[str, Any], column: str, kind: AnswerType = "text", arguments: str | None = None
) -> str | None:
    """Returns the reference as text, or as JSON for structured data; None if the row has none."""
    _, value = lookup(row, column)
    if arguments:
        try:
            value = instructions.as_reference(value, lookup(row, arguments)[1])
        except instructions.InvalidInstructions as e:
            raise UnusableRow(str(e)) from None
    if kind == "json" and isinstance(value, dict | list | bool):
        try:
            value = code_tests.as_json(value)
        except (ValueError, RecursionError) as e:
            raise UnusableRow(f"the answer cannot be written as JSON: {str(e)[:200]}") from None
    if isinstance(value, list):
        if len(value) > 1:
            raise UnusableRow(f"{len(value)} answers in a list: name one, such as {column}.0")
        value = value[0] if value else None
    if isinstance(value, bool | int | float | Decimal):
        value = str(value)
    if value is None or value in ("nan", "NaN"):  # missing numbers in tables
        return None
    if kind in ("math", "number", "choice") and isinstance(value, str) and is_missing(value, words=False):
        return None
    if not isinstance(value, str):
        raise UnusableRow(f"the answer is {kind_of(value)}, not a text or a number")
    return checked_text("the answer", value) if value.strip() else None


def _tests(row: dict[str, Any], source: FileSource) -> str | None:
    """Returns the tests of a program, as a problem's metadata; None for other answers."""
    if source.tests is None:
        return None
    _, value = lookup(row, source.tests)
    try:
        if source.entry_point is not None:
            start, name = _question(row, source.question), lookup(row, source.entry_point)[1]
            value = code_tests.with_check(value, start, name)
        return checked_text("the text of the tests", code_tests.as_metadata(value))
    except code_tests.InvalidTests as e:
        raise UnusableRow(str(e)) from None


def _other_columns(source: FileSource, row: dict[str, Any], left_out: Counter[str]) -> str | None:
    """Returns the columns that are kept beside question and reference, as JSON."""
    try:
        if source.columns == "all":
            return columns.all_but(row, source.used_columns, left_out)
        return columns.named(source.columns, lambda name: lookup(row, name)[1])
    except columns.InvalidColumn as e:
        raise UnusableRow(str(e)) from None


def _column_names(row: dict[str, Any], depth: int = 3) -> Iterator[str]:
    """Yields the column names of a row, nested ones as "problem.text"."""
    for name, value in row.items():
        if isinstance(value, dict) and depth > 1:
            yield from (f"{name}.{nested}" for nested in _column_names(value, depth - 1))
        else:
            yield name


def kind_of(value: Any) -> str:
    if isinstance(value, Number | int | float | Decimal) and not isinstance(value, bool):
        return "a number"
    return {dict: "an object", list: "a list", bool: "true or false"}.get(type(value), type(value).__name__)
