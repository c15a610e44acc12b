"""The Arrow schema of a row type."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from pipeline.rows import Float32, Int32, Row

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_schema(row: type[Row]) -> pa.Schema:
    """Returns the Arrow schema of a row type; a field is nullable only if its type admits None."""
    import pyarrow as pa

    return pa.schema([_arrow_field(name, f.annotation) for name, f in row.model_fields.items()])


def _arrow_field(name: str, annotation: Any) -> pa.Field:
    import pyarrow as pa

    nullable = get_origin(annotation) in (Union, types.UnionType)
    if nullable:
        (annotation,) = (a for a in get_args(annotation) if a is not type(None))
    return pa.field(name, _arrow_type(annotation), nullable=nullable)


def _arrow_type(annotation: Any) -> pa.DataType:
    import pyarrow as pa

    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    plain |= {Int32: pa.int32(), Float32: pa.float32()}
    if annotation in plain:
        return plain[annotation]
    if get_origin(annotation) is Literal:
        return pa.string()
    if get_origin(annotation) is tuple:
        return pa.list_(_arrow_field("item", get_args(annotation)[0]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct([_arrow_field(n, f.annotation) for n, f in annotation.model_fields.items()])
    raise TypeError(f"no Arrow type for {annotation!r}")
