"""The dotted names of a recipe's settings and their values, for completion in a shell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from filters.table import FILTERS
from pipeline.config import Recipe
from pipeline.config.base import RecipeTable, tables_in

RULES = "filter.rules"


def below(table: str) -> list[str]:
    """The settings of a dotted table, as `generate.samples=`, and the tables in it, as `generate.`.

    An item of an array is named by a position: `ingest.sources.0.`. Unknown tables have none.
    """
    if table == RULES:
        return [f"{RULES}.{name}=" for name in FILTERS]
    prefix = f"{table}." if table else ""
    return [prefix + name for name in dict.fromkeys(_names(table))]


def values(setting: str) -> list[str]:
    """The values of a setting that has few: names, true and false."""
    table, _, name = setting.rpartition(".")
    if table == RULES:
        return ["true", "false"]
    fields = (each.model_fields.get(name) for each in _tables(table))
    return [value for field in fields if field for value in _values(field.annotation)]


def _names(table: str) -> Iterator[str]:
    for each in _tables(table):
        for name, field in each.model_fields.items():
            if not tables_in(field.annotation):
                yield f"{name}." if f"{table}.{name}" == RULES else f"{name}="
            else:
                yield f"{name}.0." if _is_array(name, field) else f"{name}."


def _tables(dotted: str) -> list[type[RecipeTable]]:
    """The types of the table with this name; several where `kind` chooses one."""
    found: list[type[RecipeTable]] = [Recipe]
    for step in dotted.split(".") if dotted else ():
        if not step.isdigit():
            fields = [each.model_fields[step] for each in found if step in each.model_fields]
            found = [table for field in fields for table in tables_in(field.annotation)]
    return list(dict.fromkeys(found))


def _is_array(name: str, field: FieldInfo) -> bool:
    return name != "teacher" and get_origin(field.annotation) is tuple


def _values(annotation: Any) -> Iterator[str]:
    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    else:
        for part in get_args(annotation):
            yield from _values(part)
