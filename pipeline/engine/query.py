"""SQL over the rows of shards, by DuckDB, which reads only the columns that a query names.

DuckDB knows nothing of our checksums, so they are compared first. A connection can read the given files and
nothing else: no other file, no network, no extension, no variable of the program.
"""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.arrow_schema import arrow_schema
from pipeline.engine import sealed_file
from pipeline.engine.shard import Shard
from pipeline.errors import UserError
from pipeline.rows import VERDICT_FIELDS, Row

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_tables = count()  # numbers for the names of tables of open rows
MEMORY = "1GB"  # of a query of our own; what needs more is written to a temporary folder
SHARD = "shard"  # a column of all parts: the name of the row's shard


@dataclass(frozen=True)
class Part:
    """A shard to read, sealed or open, with the sealed verdicts on its traces."""

    shard: Shard
    verdicts: Path | None = None

    @property
    def paths(self) -> list[Path]:
        """The sealed files, also the shard's before it is sealed."""
        return [self.shard.path, *([self.verdicts] if self.verdicts else [])]


def query(
    source: Sequence[Path] | pa.Table, columns: Collection[str], text: str, **values: Any
) -> list[tuple[Any, ...]]:
    """Returns the answer to a SELECT over the view `rows`; [] when there is no file or no row.

    `rows` has these columns of all files, or of the table. Parameters are written $name. Raises UserError
    when a file is damaged or missing.
    """
    if not len(source):
        return []
    paths = source if isinstance(source, Sequence) else ()
    for path in paths:
        sealed_file.check(path, columns)
    with reading(paths) as connection:
        if isinstance(source, Sequence):
            connection.execute(f"create view rows as {_select(paths, columns)}")
        else:
            connection.register("rows", source.select(list(columns)))
        return connection.execute(text, values).fetchall()


@contextmanager
def reading(paths: Sequence[Path], **settings: Any) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connects as `connect` does, with little memory. Raises UserError where the files cannot be read."""
    import duckdb

    try:
        with connect(paths, memory_limit=MEMORY, **settings) as connection:
            yield connection
    except (
        duckdb.DataError,
        duckdb.IOException,
        duckdb.InvalidInputException,
        duckdb.OutOfMemoryException,
    ) as e:
        where = paths[0].parent if paths else "SQL"
        raise UserError(f"{where}: cannot be read: {str(e).splitlines()[0]}") from None


def connect(paths: Iterable[Path], **settings: Any) -> duckdb.DuckDBPyConnection:
    """Opens a database in memory that may read these files alone."""
    import duckdb

    safe: dict[str, Any] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
        "temp_directory": _private_folder(),
    }
    connection = duckdb.connect(":memory:", config=safe | settings)
    connection.execute(f"set allowed_paths = [{_listed(paths)}]")
    connection.execute("set enable_external_access = false")
    connection.execute("set enable_progress_bar = false")  # it would go to stdout, into what a command prints
    connection.execute("set lock_configuration = true")
    return connection


@cache
def _private_folder() -> str:
    """A folder that no other user can open or foresee, until this process ends."""
    folder = tempfile.TemporaryDirectory(prefix="retort-")
    atexit.register(folder.cleanup)
    return folder.name


def rows_of(
    connection: duckdb.DuckDBPyConnection,
    row: type[Row],
    parts: Sequence[Part],
    columns: Sequence[str],
    read: Collection[str] | None = None,
) -> str:
    """Returns a SELECT of these columns of the parts, or SHARD; the connection must be to their files.

    Only the columns in `read` (default: all) are verified and, in open shards, not null. A key is read once,
    from the sealed file if there is one. Raises UserError for a damaged file.
    """
    import pyarrow as pa

    read = [name for name in columns if name != SHARD and (read is None or name in read)]
    known = arrow_schema(row).append(pa.field(SHARD, pa.string()))
    schema = pa.schema([known.field(name).with_nullable(True) for name in columns])
    sealed: list[Part] = []
    journals: list[pa.RecordBatch] = []
    for part in parts:
        records = [] if part.shard.sealed else _journal(part.shard, read)
        if part.shard.sealed:  # perhaps only since its journal was read
            sealed.append(part)
        elif records:
            journals.append(pa.RecordBatch.from_pylist(records, schema))
    name = f"open_rows_{next(_tables)}"
    connection.register(name, pa.Table.from_batches(journals, schema))
    return f"{_sealed(sealed, columns, read)} union all select * from {name}" if sealed else f"from {name}"


def _journal(shard: Shard, fields: Sequence[str]) -> list[dict[str, Any]]:
    """These fields of the last row of each key in the journal of an open shard, and SHARD."""
    try:
        return [{**row, SHARD: shard.name} for row in shard.read_journal(fields).rows.values()]
    except KeyError as e:
        raise UserError(f"{shard.path}: its journal, of another release, has rows without {e}") from None


def _sealed(parts: Sequence[Part], columns: Sequence[str], read: Sequence[str]) -> str:
    """A SELECT of these columns of sealed parts; verdicts, where there are any, are found by id."""
    paths = [part.shard.path for part in parts]
    verdicts = [part.verdicts for part in parts if part.verdicts]
    joined = [name for name in columns if name in VERDICT_FIELDS] if verdicts else []
    for path in paths:
        sealed_file.check(path, ["id", *read] if joined else read)
    if not joined:
        return _select(paths, columns)
    for path in verdicts:
        sealed_file.check(path, ["id", *(name for name in joined if name in read)])
    chosen = [
        f"coalesce(v.{name}, t.{name}) as {name}" if name in joined else f"t.{name}" for name in columns
    ]
    traces, known = _select(paths, dict.fromkeys(["id", *columns])), _select(verdicts, ["id", *joined])
    return f"select {', '.join(chosen)} from ({traces}) t left join ({known}) v using (id)"


def _select(paths: Iterable[Path], columns: Iterable[str]) -> str:
    names = (f"parse_filename(filename, true) as {SHARD}" if name == SHARD else name for name in columns)
    return f"select {', '.join(names)} from read_parquet([{_listed(paths)}])"


def _listed(paths: Iterable[Path]) -> str:
    """The paths as elements of a SQL list."""
    return ", ".join("'" + str(path.absolute()).replace("'", "''") + "'" for path in paths)
