"""Describes a recipe's validation errors in plain words, each in one line."""

from __future__ import annotations

from typing import get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline.config import Recipe
from pipeline.config.base import ENV_NAME, NAME, RecipeTable, tables_in
from pipeline.config.ingest import IngestSource
from pipeline.config.mix import Mix
from pipeline.errors import nearest

_SOURCES, _MIXES = (
    {get_args(table.model_fields["kind"].annotation)[0]: table for table in tables_in(union)}
    for union in (IngestSource, Mix)
)
# What people call a setting that has another name.
_SYNONYMS = {"answer": "reference", "gold": "reference"}
# The types of pydantic's errors begin with these words.
_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "string": "text"}
_KINDS |= {"tuple": "a list", "list": "a list", "dict": "a table", "model": "a table"}
_PATTERNS = {
    NAME: "must have only letters, digits, dots, hyphens and underscores, and begin with a letter or digit",
    ENV_NAME: "must be the name of an environment variable: letters, digits and underscores",
}


def explain(error: ValidationError, one_teacher: bool) -> dict[str, str]:
    """Returns the dotted key of each mistake, as the user wrote it, and what is wrong there."""
    by_place: dict[str, list[ErrorDetails]] = {}
    for each in error.errors():
        if each["type"] == "too_short" and each["input"]:
            continue  # a list is also called empty where an item of it has a mistake
        by_place.setdefault(_place(each, one_teacher), []).append(each)
    return {place: _explain(place, errors) for place, errors in by_place.items()}


def _explain(place: str, errors: list[ErrorDetails]) -> str:
    first = errors[0]
    if first["type"] == "extra_forbidden":
        key, known = str(first["loc"][-1]), _known_keys(first["loc"][:-1])
        meant = _SYNONYMS.get(key, "")
        return f"unknown key {place!r}{nearest(meant if meant in known else key, known)}"
    if first["type"] == "missing":
        return f"missing key {place!r}"
    # Where a setting may have several types, each that does not fit has an error.
    messages = dict.fromkeys(_message(each) for each in errors)
    what = (f"{place}: " if place else "") + " or ".join(messages).replace(" or must be ", " or ")
    # Somebody may have put the key itself where its variable's name belongs.
    secret = place.endswith("api_key_env") or ".env." in place
    return what + (
        "" if secret or isinstance(first["input"], dict | list) else f" (found {first['input']!r})"
    )


def _place(error: ErrorDetails, one_teacher: bool) -> str:
    """Returns the dotted key that an error is about, as the user wrote it."""
    steps = error["loc"]  # the kind of a table follows its position
    kinds = _kinds(steps)
    loc = [
        str(b) for a, b in zip(("", *steps), steps, strict=False) if not (isinstance(a, int) and b in kinds)
    ]
    if one_teacher and loc[:2] == ["teacher", "0"]:
        del loc[1]  # it was written as [teacher]
    while loc and (loc[-1] in ("str", "bool", "int", "float") or "[" in loc[-1]):
        del loc[-1]  # one type of several
    return ".".join(loc)


def _message(error: ErrorDetails) -> str:
    """Returns what a setting must be, without the names of Python's types."""
    kind, _, problem = error["type"].partition("_")
    if kind in _KINDS and problem in ("type", "attributes_type", "parsing", "from_float"):
        return f"must be {_KINDS[kind]}"
    context = error.get("ctx", {})
    match error["type"]:
        case "union_tag_not_found":
            return f"kind is missing: one of {', '.join(_kinds(error['loc']))}"
        case "union_tag_invalid":
            return f"kind must be one of {', '.join(_kinds(error['loc']))}, not {context['tag']!r}"
        case "string_pattern_mismatch":
            return _PATTERNS[context["pattern"]]
        case "too_short":
            return "must not be empty"
    return error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")


def _kinds(loc: tuple[int | str, ...]) -> dict[str, type[RecipeTable]]:
    """Returns the tables of which `kind` chooses one at this place."""
    return _MIXES if loc[:2] == ("select", "mix") else _SOURCES


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    table: type[RecipeTable] = Recipe
    for step in loc:
        if step in _kinds(loc):
            table = _kinds(loc)[str(step)]
        elif step in table.model_fields:
            table = next(iter(tables_in(table.model_fields[str(step)].annotation)), table)
    return list(table.model_fields)
