"""What all tables of a recipe share: frozen, no unknown key, and an identity()."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_jsonable_python

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # safe as a file name
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Scalar = str | bool | int | float


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    EXECUTION: ClassVar[frozenset[str]] = frozenset()


def identity(table: Table) -> dict[str, Any]:
    """The settings of a table, and of those in it, that change what a stage writes, as plain JSON values."""
    return {name: _plain(value) for name, value in table if name not in table.EXECUTION}


def _plain(value: Any) -> Any:
    if isinstance(value, Table):
        return identity(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return to_jsonable_python(value)
