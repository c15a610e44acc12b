"""SQL over a run's rows, by DuckDB, which reads of the Parquet files what a query needs.

The tables are problems, traces, verdicts (unnested), examples and scores. A query can read those and nothing
else: no other file, no network, no extension, no variable of the program; and it can only read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import install_hints
from pipeline.engine import sealed_file
from pipeline.errors import UserError
from pipeline.inspect.table import Rows
from pipeline.rows import arrow_schema

if TYPE_CHECKING:
    import duckdb

_CLOSED = (
    "set enable_external_access = false",
    "set lock_configuration = true",
)
_VERDICTS = (
    "create view verdicts as "
    "select id as trace_id, problem_id, unnest(verdicts, recursive := true) from traces"
)


def query(tables: Mapping[str, Rows[Any]], text: str) -> duckdb.DuckDBPyRelation:
    """The answer to one SELECT over these tables, lazily: .df(), .to_arrow_table(), .fetchall(), or print it.

    Raises UserError when DuckDB is not installed or the query is not right.
    """
    try:
        import duckdb
    except ImportError:
        raise UserError(f"SQL needs DuckDB: {install_hints.extra('sql')}") from None
    for table in tables.values():
        for path in table.paths:  # DuckDB compares no checksum; of what the query names, we do
            sealed_file.check(path, [name for name in table.row.model_fields if name in text or "*" in text])
    connection = _connect(tables)
    try:
        kinds = [statement.type for statement in connection.extract_statements(text)]
        if kinds not in ([duckdb.StatementType.SELECT], [duckdb.StatementType.EXPLAIN]):
            raise UserError("SQL: one SELECT is wanted, a run is only read")
        return connection.sql(text)
    except duckdb.Error as e:
        raise UserError(
            f"SQL: {str(e).splitlines()[0]}; tables: {', '.join((*tables, 'verdicts'))}"
        ) from None


def _connect(tables: Mapping[str, Rows[Any]]) -> duckdb.DuckDBPyConnection:
    """A database in memory with a view for each table, which may read their files alone."""
    import duckdb

    settings: dict[str, Any] = dict.fromkeys(
        ("autoinstall_known_extensions", "autoload_known_extensions"), False
    )
    settings |= {"python_enable_replacements": False, "temp_directory": f"{tempfile.gettempdir()}/duckdb"}
    connection = duckdb.connect(":memory:", config=settings)
    files = [path for table in tables.values() for path in table.paths]
    connection.execute(f"set allowed_paths = [{_listed(files)}]")
    for statement in _CLOSED:
        connection.execute(statement)
    for name, table in tables.items():
        if table.paths:
            connection.execute(f"create view {name} as select * from read_parquet([{_listed(table.paths)}])")
        else:
            connection.register(name, arrow_schema(table.row).empty_table())
    connection.execute(_VERDICTS)
    return connection


def _listed(paths: Any) -> str:
    return ", ".join("'" + str(Path(path).absolute()).replace("'", "''") + "'" for path in paths)
