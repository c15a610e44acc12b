"""`run.sql(...)`: one SELECT over a run's rows, by DuckDB.

The tables are problems, traces, verdicts (unnested), trace_scores, examples and scores. A query can only
read, and only these tables.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.engine.query import connect, rows_of
from pipeline.errors import UserError
from pipeline.inspect.table import RowTable

if TYPE_CHECKING:
    import duckdb

_VERDICTS = (
    "create view verdicts as "
    "select id as trace_id, problem_id, unnest(verdicts, recursive := true) from traces"
)
_COUNT = re.compile(r"\bcount\s*\(\s*\*\s*\)")


def query(tables: Mapping[str, RowTable[Any]], text: str) -> duckdb.DuckDBPyRelation:
    """Returns the answer lazily: .df(), .to_arrow_table(), .fetchall(), or print it.

    Raises UserError when the text is not one valid SELECT, or a file that it reads is damaged.
    """
    import duckdb

    connection = connect(path for table in tables.values() for part in table.parts for path in part.paths)
    try:
        kinds = [statement.type for statement in connection.extract_statements(text)]
        if kinds not in ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN]):
            raise UserError("SQL: a run is only read; write one SELECT")
        _create_views(connection, tables, _COUNT.sub("", text.lower()))
        return connection.sql(text)
    except duckdb.Error as e:
        raise UserError(
            f"SQL: {str(e).splitlines()[0]}; tables: {', '.join((*tables, 'verdicts'))}"
        ) from None


def _create_views(
    connection: duckdb.DuckDBPyConnection, tables: Mapping[str, RowTable[Any]], text: str
) -> None:
    """Creates a view for each table. Columns that the text cannot name are not verified."""
    every = "*" in text or "select" not in text
    if "verdicts" in text:
        text += " id problem_id"
    for name, table in tables.items():
        columns = list(table.row.model_fields)
        named = [column for column in columns if every or column in text]
        connection.execute(
            f"create view {name} as {rows_of(connection, table.row, table.parts, columns, named)}"
        )
    connection.execute(_VERDICTS)
