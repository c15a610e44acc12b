"""The JSON schema of a recipe, by which editors complete and check TOML: pipeline/recipes/recipe.schema.json.

It accepts what pipeline/config/load.py accepts before it validates: one teacher as a table, rules switched on
and off, and benchmarks by their name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from filters.table import FILTERS
from pipeline.config import Recipe
from pipeline.config.benchmarks import BENCHMARKS

_BENCHMARK = {  # in place of a source
    "type": "object",
    "required": ["benchmark"],
    "properties": {"benchmark": {"description": "Name of a usual benchmark.", "enum": [*BENCHMARKS]}},
}


def recipe_schema() -> dict[str, Any]:
    """Returns the schema of a recipe's TOML."""
    schema = Recipe.model_json_schema()
    for each in _objects(schema):
        each.pop("discriminator", None)
        if isinstance(each.get("title"), str):
            del each["title"]
        if isinstance(each.get("description"), str):
            each["description"] = " ".join(each["description"].split())
        if {"$ref": "#/$defs/FileSource"} in each.get("oneOf", ()):
            each["anyOf"] = [*each.pop("oneOf"), _BENCHMARK]
    del schema["$defs"]["EvaluationSet"]["required"]  # a benchmark has both
    teacher = schema["properties"]["teacher"]
    one, several = teacher["items"], {key: teacher.pop(key) for key in ("type", "items")}
    teacher["anyOf"] = [one, several]
    rules = schema["$defs"]["Filter"]["properties"]["rules"]
    rules["properties"] = {name: _rule(spec.function) for name, spec in FILTERS.items()}
    rules["patternProperties"] = {":": {"type": ["boolean", "object"]}}  # a rule of the user's own
    rules["additionalProperties"] = False
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yields all objects in a JSON value."""
    if isinstance(value, dict):
        yield value
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _objects(below)


def _rule(function: Callable[..., object]) -> dict[str, Any]:
    """A rule: true, false, or a table of its parameters."""
    given = inspect.signature(function).parameters.values()
    return {
        "description": " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split()),
        "type": ["boolean", "object"],
        "properties": {p.name: {} for p in given if p.kind is p.KEYWORD_ONLY},
        "additionalProperties": False,
    }
