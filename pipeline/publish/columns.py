"""Publishes the columns of the problems' sources as a struct whose fields are typed by their values.

Texts, numbers and booleans stay what they are. A column with values of several kinds, one of lists or
objects, and one with whole numbers that its type would change, is text. Columns with more than MOST names
together stay one JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.query import query

if TYPE_CHECKING:
    import pyarrow as pa

MOST = 200  # names of columns, over all sources
_KINDS = """
select key, list(distinct type), bool_and(try_cast(json_extract_string(value, '$') as bigint) is not null),
    bool_and(coalesce(isfinite(try_cast(json_extract_string(value, '$') as double)), false)
        and not (type in ('BIGINT', 'UBIGINT') and abs(coalesce(whole, 0)) > 9007199254740992))
from (
    select *, try_cast(json_extract_string(value, '$') as hugeint) as whole
    from (select distinct columns from rows where columns is not null) each, json_each(each.columns)
)
group by key order by key
"""


def type_of(traces: Sequence[Path]) -> pa.DataType | None:
    """Returns the type of the published columns of these shards; None if no trace has columns."""
    import pyarrow as pa

    found = query(traces, ("columns",), _KINDS)
    if len(found) > MOST:
        return pa.string()
    fields = [pa.field(name, _kind(set(kinds), whole, finite)) for name, kinds, whole, finite in found]
    return pa.struct(fields) if fields else None


def _kind(kinds: set[str], whole: bool, finite: bool) -> pa.DataType:
    """`whole`: int64 holds all values; `finite`: float64 does, and whole numbers without a change."""
    import pyarrow as pa

    numbers = {"BIGINT", "UBIGINT", "HUGEINT", "DOUBLE"}
    if kinds == {"BOOLEAN"}:
        return pa.bool_()
    if whole and kinds <= numbers - {"DOUBLE"}:
        return pa.int64()
    return pa.float64() if kinds <= numbers and finite else pa.string()


def with_columns(schema: pa.Schema, kind: pa.DataType | None) -> pa.Schema:
    """Returns the schema with its field `columns` of this type, or without it."""
    position = schema.get_field_index("columns")
    if kind is None:
        return schema.remove(position)
    return schema.set(position, schema.field(position).with_type(kind))


def typed(texts: Any, kind: pa.DataType) -> Any:
    """Returns columns stored as JSON texts as an array of this type."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        return texts
    known = {field.name: field.type for field in kind}
    return pa.array([_row(text, known) for text in texts.to_pylist()], kind)


def _row(text: str | None, known: dict[str, pa.DataType]) -> dict[str, Any] | None:
    if text is None:
        return None
    return {name: _value(value, known[name]) for name, value in json.loads(text, parse_float=Decimal).items()}


def _value(value: Any, kind: pa.DataType) -> Any:
    import pyarrow as pa

    if pa.types.is_string(kind) and not isinstance(value, str):
        return (
            str(value) if isinstance(value, Decimal) else json.dumps(value, ensure_ascii=False, default=float)
        )
    return float(value) if pa.types.is_floating(kind) else value
