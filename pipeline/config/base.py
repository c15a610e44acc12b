"""What all tables of a recipe share: frozen, no unknown key, and an identity()."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # safe as a file name
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Scalar = str | bool | int | float


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    EXECUTION: ClassVar[frozenset[str]] = frozenset()


def identity(table: Table) -> dict[str, Any]:
    """The settings of a table, and of those in it, that change what a stage writes, as plain JSON values."""
    plain = table.model_dump(mode="json")
    return {name: _identity(value, plain[name]) for name, value in table if name not in table.EXECUTION}


def _identity(value: Any, plain: Any) -> Any:
    """A setting without what says how the work is done; `plain`: it as JSON, where a float's 0 is 0.0."""
    if isinstance(value, Table):
        return identity(value)
    if isinstance(value, tuple):
        return [_identity(each, as_json) for each, as_json in zip(value, plain, strict=True)]
    return plain
