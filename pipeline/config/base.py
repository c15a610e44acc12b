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
    """The settings of a table that change what a stage writes, as plain JSON values."""
    return {k: v for k, v in table.model_dump(mode="json").items() if k not in table.EXECUTION}
