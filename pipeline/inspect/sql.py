"""`run.sql(...)`: one SELECT over a run's rows, by DuckDB.

The tables are problems, traces, verdicts (unnested), examples and scores. A query can only read, and only
these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.engine import sealed_file
from pipeline.engine.query import connect, path_list
from pipeline.errors import UserError
from pipeline.inspect.table import Rows
from pipeline.rows import arrow_schema

if TYPE_CHECKING:
    import duckdb

_VERDICTS = (
    "create view verdicts as "
    "select id as trace_id, problem_id, unnest(verdicts, recursive := true) from traces"
)


def query(tables: Mapping[str, Rows[Any]], text: str) -> duckdb.DuckDBPyRelation:
    """Returns the answer lazily: .df(), .to_arrow_table(), .fetchall(), or print it.

    Raises UserError when the text is not one valid SELECT, or a file that it reads is damaged.
    """
    import duckdb

    for table in tables.values():
        named = [name for name in table.row.model_fields if name in text or "*" in text]
        for path in table.paths:
            sealed_file.check(path, named)
    connection = _connect(tables)
    try:
        kinds = [statement.type for statement in connection.extract_statements(text)]
        if kinds not in ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN]):
            raise UserError("SQL: a run is only read; write one SELECT")
        return connection.sql(text)
    except duckdb.Error as e:
        raise UserError(
            f"SQL: {str(e).splitlines()[0]}; tables: {', '.join((*tables, 'verdicts'))}"
        ) from None


def _connect(tables: Mapping[str, Rows[Any]]) -> duckdb.DuckDBPyConnection:
    """Opens a database with a view for each table."""
    connection = connect(path for table in tables.values() for path in table.paths)
    for name, table in tables.items():
        if table.paths:
            source = f"read_parquet([{path_list(table.paths)}])"
            connection.execute(f"create view {name} as select * from {source}")
        else:
            connection.register(name, arrow_schema(table.row).empty_table())
    connection.execute(_VERDICTS)
    return connection
