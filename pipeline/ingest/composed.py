"""Makes a question of several columns: a template over them, and lettered choices.

Nothing of a row is a template: its values are inserted as they are.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import prompts
from pipeline.config.sources import FileSource
from pipeline.errors import UserError
from pipeline.ingest import choices, columns
from pipeline.ingest.choices import Choices, InvalidChoices
from pipeline.ingest.files import Number
from pipeline.ingest.lines import RECORD_LIMIT

WITH_CHOICES = "{{ question }}\n\n{{ choices }}"


class UnusableRow(Exception):
    """A row cannot become a problem; the message has the reason."""


def question_and_reference(
    source: FileSource, row: dict[str, Any], question: str, reference: str | None
) -> tuple[str, str | None]:
    """Returns the question as the source's template puts it, and the reference as the letter of a choice."""
    fields: dict[str, Any] = {"question": question}
    try:
        text = columns.named(source.template_columns, lambda name: lookup(row, name)[1]) or "{}"
        if source.choices is not None:
            found = _choices(source, row, question, reference)
            reference, fields["choices"] = found.letter, str(found)
        values = json.loads(text, parse_float=Decimal)
        filled = prompts.fill_text(source.question_template or WITH_CHOICES, values | fields)
    except (InvalidChoices, columns.InvalidColumn) as e:
        raise UnusableRow(str(e)) from None
    except UserError as e:
        raise UnusableRow(f"question_template: {e}") from None
    return checked_text("the question", filled), reference


def _choices(source: FileSource, row: dict[str, Any], question: str, reference: str | None) -> Choices:
    texts = _texts(source, row)
    correct = None
    if reference is not None:
        own = source.choices if isinstance(source.choices, tuple) else ()
        of_column = own.index(source.reference) if source.reference in own else None
        correct = choices.position(reference, texts, source.reference_is) if of_column is None else of_column
    return choices.choices_of(texts, correct, " ".join(question.split()) if source.shuffle_choices else None)


def _texts(source: FileSource, row: dict[str, Any]) -> list[str]:
    if isinstance(source.choices, tuple):
        values = [lookup(row, name)[1] for name in source.choices]
    else:
        values = lookup(row, source.choices or "")[1]
    if not isinstance(values, list):
        raise InvalidChoices(f"the choices in {source.choices!r} are not a list")
    if not all(value is None or isinstance(value, str | int | float | Decimal) for value in values):
        raise InvalidChoices("a choice is not a text or a number")
    texts = ("" if value is None or _is_nan(value) else str(value) for value in values)
    return [checked_text("a choice", text) for text in texts]


def _is_nan(value: Any) -> bool:
    """Whether a value is the NaN that stands for a missing number in tables."""
    return isinstance(value, float | Decimal | Number) and str(value).lower() in ("nan", "-nan")


def checked_text(what: str, text: str) -> str:
    """Returns the text as a plain string. Raises UnusableRow if later steps could not process it."""
    if "\0" in text:
        raise UnusableRow(f"{what} has a NUL character in it")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UnusableRow(f"{what} is not UTF-8") from None
    if size > RECORD_LIMIT:
        raise UnusableRow(f"{what} is longer than {RECORD_LIMIT >> 20} MB")
    return str(text)


def lookup(row: dict[str, Any], column: str) -> tuple[bool, Any]:
    """Returns whether the column exists, and its value. An exact name wins over a path to a nested one."""
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
