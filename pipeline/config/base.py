"""The base of every table in a recipe, the types its settings share, and `identity()`."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, model_validator
from pydantic.fields import FieldInfo

T = TypeVar("T")
_NOT_IDENTITY = "not identity"

NotIdentity = Annotated[T, _NOT_IDENTITY]
"""A setting that leaves the output of every stage as it is, such as a port, a price or the concurrency."""

Fraction = Annotated[float, Field(ge=0, le=1)]
TopP = Annotated[float, Field(gt=0, le=1)]
NAME, ENV_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$", r"^[A-Za-z_][A-Za-z0-9_]*$"
Name = Annotated[str, Field(pattern=NAME)]  # safe as a file name
EnvName = Annotated[str, Field(pattern=ENV_NAME)]
Scalar = str | bool | int | float


class RecipeTable(BaseModel):
    """A frozen table that refuses unknown keys. The string under a field is the field's description."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, given: Any) -> Any:
        """Turns true and false into text where a number belongs, since pydantic would read true as 1."""
        if not isinstance(given, dict):
            return given
        kinds = {name: types_in(field.annotation) for name, field in cls.model_fields.items()}
        numbers = {name for name, kind in kinds.items() if kind <= {int, float, type(None)}}
        wrong = {n: str(v).lower() for n, v in given.items() if n in numbers and isinstance(v, bool)}
        return given | wrong


class SamplingSettings(RecipeTable):
    """How models are sampled. The defaults are those of DeepSeek-R1's evaluation (arXiv 2501.12948, 3)."""

    temperature: NonNegativeFloat = 0.6
    """Sampling temperature; 0 is greedy decoding."""
    top_p: TopP = 0.95
    """Nucleus sampling: only the likeliest tokens whose probabilities add up to this are sampled."""
    max_tokens: PositiveInt = 4096
    """Maximum tokens that one request generates, reasoning included. Raise it if many are truncated."""
    concurrency: NotIdentity[PositiveInt] = 64
    """Maximum requests in flight for each model. The client lowers it while a server is overloaded."""
    max_failed_fraction: NotIdentity[Fraction] = 0
    """Fraction of the samples that may fail for good while the stage still counts as complete."""


def tables_in(annotation: Any) -> list[type[RecipeTable]]:
    """Returns the types of recipe table that a setting of this type may hold."""
    if isinstance(annotation, type) and issubclass(annotation, RecipeTable):
        return [annotation]
    return [table for part in get_args(annotation) for table in tables_in(part)]


def types_in(annotation: Any) -> set[Any]:
    """Returns the types that a setting may have, without what limits them."""
    if get_origin(annotation) is Annotated:
        return types_in(get_args(annotation)[0])
    parts = get_args(annotation)
    return set().union(*map(types_in, parts)) if parts else {annotation}


def in_identity(field: FieldInfo) -> bool:
    """Returns whether a setting can change what a stage writes."""
    return _NOT_IDENTITY not in field.metadata


def identity(table: RecipeTable) -> dict[str, Any]:
    """Returns the settings of a table, nested ones included, that change a stage's output, as JSON values."""
    plain = table.model_dump(mode="json")
    fields = type(table).model_fields
    return {name: _identity(value, plain[name]) for name, value in table if in_identity(fields[name])}


def _identity(value: Any, plain: Any) -> Any:
    """Drops settings outside the identity from a value; `plain` is its JSON form, where a float 0 is 0.0."""
    if isinstance(value, RecipeTable):
        return identity(value)
    if isinstance(value, tuple):
        return [_identity(each, as_json) for each, as_json in zip(value, plain, strict=True)]
    return plain
