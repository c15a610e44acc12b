"""SQL over sealed Parquet files, by DuckDB, which reads only the columns that a query names.

DuckDB knows nothing of our checksums, so they are compared first. A connection can read the given files and
nothing else: no other file, no network, no extension, no variable of the program.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import sealed_file
from pipeline.errors import UserError

if TYPE_CHECKING:
    import duckdb

MEMORY = "1GB"  # of a query of our own; what needs more is written to a temporary folder


def query(paths: Sequence[Path], columns: Collection[str], text: str, **values: Any) -> list[tuple[Any, ...]]:
    """Returns the answer to a SELECT over the view `rows`; [] when there are no files.

    `rows` has these columns of all files, and `filename`. Parameters are written $name. Raises UserError when
    a file is damaged or missing.
    """
    import duckdb

    if not paths:
        return []
    for path in paths:
        sealed_file.check(path, columns)
    try:
        with connect(paths, MEMORY) as connection:
            source = f"read_parquet([{path_list(paths)}])"
            connection.execute(f"create view rows as select {', '.join(columns)}, filename from {source}")
            return connection.execute(text, values).fetchall()
    except (duckdb.IOException, duckdb.InvalidInputException, duckdb.OutOfMemoryException) as e:
        raise UserError(f"{paths[0].parent}: cannot be read: {str(e).splitlines()[0]}") from None


def connect(paths: Iterable[Path], memory: str | None = None) -> duckdb.DuckDBPyConnection:
    """Opens a database in memory that may read these files alone."""
    import duckdb

    settings: dict[str, Any] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
        "temp_directory": f"{tempfile.gettempdir()}/duckdb-{os.getuid()}",
    }
    connection = duckdb.connect(":memory:", config=settings | ({"memory_limit": memory} if memory else {}))
    connection.execute(f"set allowed_paths = [{path_list(paths)}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set lock_configuration = true")
    return connection


def path_list(paths: Iterable[Path]) -> str:
    """The paths as elements of a SQL list."""
    return ", ".join("'" + str(path.absolute()).replace("'", "''") + "'" for path in paths)
