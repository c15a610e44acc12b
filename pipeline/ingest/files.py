"""Reads rows from JSONL, JSON, CSV and Parquet files, one at a time; a row that cannot be read is a BadRow.

Files are untrusted: lines have a length limit, invalid UTF-8 or JSON costs one row, and only a JSON array is
held in memory as a whole.
"""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from pipeline import shipped
from pipeline.errors import UserError, one_line, user_error
from pipeline.ingest.lines import RECORD_LIMIT, LineReader, RecordTooLong

JSON_LIMIT = 2**30  # bytes of a JSON array, which is held in memory
HEAD = 100  # rows that tell the columns


@dataclass(frozen=True)
class Record:
    origin: str  # for people: "problems.jsonl:12"
    values: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    origin: str
    why: str


class Number(str):
    """A number in the file's own notation, so that 0.10 stays 0.10."""

    __slots__ = ()


class _DuplicateName(dict[str, Any]):
    """A JSON object in which a name occurs twice, or that contains such an object."""

    name = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    nested = [name for value in found.values() if (name := _duplicate_in(value)) is not None]
    if len(found) == len(pairs) and not nested:
        return found
    names = [name for name, _ in pairs]
    invalid = _DuplicateName(found)
    invalid.name = next((name for name in names if names.count(name) > 1), *nested[:1])
    return invalid


def _duplicate_in(value: Any) -> str | None:
    """The name that occurs twice in an object of this value; None if none does."""
    if isinstance(value, list):
        return next((name for each in value if (name := _duplicate_in(each)) is not None), None)
    return value.name if isinstance(value, _DuplicateName) else None


_JSON = json.JSONDecoder(
    parse_float=Number, parse_int=Number, parse_constant=Number, object_pairs_hook=_object
)


def find(pattern: str) -> list[Path]:
    """Returns the sorted files of a path or glob pattern. Raises UserError for none, or an unknown format."""
    one = Path(pattern)
    paths = [one] if shipped.find(one).exists() else map(Path, glob.glob(pattern, recursive=True))
    files = sorted(path for path in paths if shipped.find(path).is_file())
    if not files:
        raise UserError(f"{pattern}: no such file")
    for path in files:
        if _suffix(path.name) is None:
            raise UserError(f"{path}: unknown file format; supported are {', '.join(_READERS)}")
    return files


def without_suffix(name: str) -> str:
    """Returns a file name without the suffix that tells its format."""
    return name[: len(name) - len(_suffix(name) or "")]


def sha256(path: Path) -> str:
    with shipped.find(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def records(path: Path, columns: tuple[str, ...] = ()) -> Iterator[Record | BadRow]:
    """Yields the rows of a file that find() returned. Raises UserError if the file cannot be read.

    `columns`: the only ones to read from Parquet; empty for all.
    """
    try:
        yield from _READERS[_suffix(path.name) or ""](path, columns)
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{path}: cannot be read: {e}") from None


def head(path: Path) -> Iterator[Record | BadRow]:
    """Returns the first rows of a file; for Parquet the schema as one row without values."""
    if path.suffix.lower() == ".parquet":
        with _parquet_file(path) as file:
            return iter([Record(str(path), skeleton(file.schema_arrow))] if file.metadata.num_rows else [])
    return islice(records(path), HEAD)


def _jsonl(path: Path, _: tuple[str, ...]) -> Iterator[Record | BadRow]:
    with _open(path) as file:
        lines = LineReader(file)
        while True:
            lines.begin()
            try:
                line = next(lines)
            except StopIteration:
                return
            except RecordTooLong as e:
                yield BadRow(f"{path}:{lines.number}", str(e))
                continue
            if line.strip():
                yield _parsed(f"{path}:{lines.number}", line)


def _parsed(origin: str, line: bytes) -> Record | BadRow:
    try:
        return _record(origin, _JSON.decode(line.rstrip().decode()))
    except (ValueError, RecursionError) as e:
        return BadRow(origin, _why(e))


def _record(origin: str, value: Any) -> Record | BadRow:
    if isinstance(value, _DuplicateName):
        return BadRow(origin, f"the name {value.name!r} occurs twice")
    return Record(origin, value) if isinstance(value, dict) else BadRow(origin, "not a JSON object")


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start + 1})"
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}"
    return "JSON nested too deeply"


def _json(path: Path, _: tuple[str, ...]) -> Iterator[Record | BadRow]:
    with _open(path) as file:
        data = file.read(JSON_LIMIT + 1)
    if len(data) > JSON_LIMIT:
        raise UserError(f"{path}: larger than {JSON_LIMIT >> 30} GB; write it as JSONL, one row per line")
    try:
        rows = _JSON.decode(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as e:
        line = f"line {e.lineno}: " if isinstance(e, json.JSONDecodeError) else ""
        raise UserError(f"{path}: {line}{_why(e)}; for one row per line use .jsonl") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: not an array of objects")
    for number, row in enumerate(rows, start=1):
        yield _record(f"{path} row {number}", row)


def _csv(path: Path, _: tuple[str, ...]) -> Iterator[Record | BadRow]:
    csv.field_size_limit(RECORD_LIMIT)
    with _open(path) as file:
        lines = LineReader(file)
        rows = csv.reader(
            map(_decoded, lines), strict=True
        )  # map, unlike a generator, resumes after an error
        header: list[str] = []
        while True:
            lines.begin()
            first = lines.number + 1
            try:
                cells = next(rows)
            except StopIteration:
                return
            except (csv.Error, RecordTooLong) as e:
                if not header:
                    raise UserError(f"{path}: the header cannot be read: {e}") from None
                if isinstance(e, RecordTooLong) or "end of data" in str(e) or "field limit" in str(e):
                    lines.give_back()  # the lines after an unclosed quote are rows
                yield from _bad_lines(path, first, len(lines.record), f"not CSV: {e}")
                continue
            if cells and not header:
                header = _header(path, cells)
            elif cells and len(cells) != len(header):
                why = f"{len(cells)} cells where the header has {len(header)}"
                yield from _bad_lines(path, first, len(lines.record), why)
            elif cells:
                yield Record(f"{path}:{first}", dict(zip(header, cells, strict=True)))


def _bad_lines(path: Path, first: int, count: int, why: str) -> Iterator[BadRow]:
    """Reports each line of a record: a misplaced quote may have merged many rows."""
    yield BadRow(f"{path}:{first}", why)
    for number in range(first + 1, first + count):
        yield BadRow(f"{path}:{number}", f"merged into line {first} by a quote")


def _decoded(line: bytes) -> str:
    return line.decode(errors="surrogateescape")  # invalid UTF-8 becomes surrogates, rejected later


def _header(path: Path, cells: list[str]) -> list[str]:
    twice = [name for name in cells if name and cells.count(name) > 1]
    if twice:
        raise UserError(f"{path}: the header names column {twice[0]!r} twice")
    return cells


def _parquet(path: Path, columns: tuple[str, ...]) -> Iterator[Record | BadRow]:
    from pyarrow import ArrowException

    with _parquet_file(path) as file:
        wanted = top_level(columns, file.schema_arrow.names) or None
        number = 0
        try:
            for batch in file.iter_batches(batch_size=256, columns=wanted):
                for row in range(batch.num_rows):
                    number += 1
                    origin = f"{path} row {number}"
                    try:
                        yield Record(origin, batch.slice(row, 1).to_pylist()[0])
                    except UnicodeDecodeError as e:
                        yield BadRow(origin, _why(e))
                    except (ValueError, OverflowError, LookupError) as e:  # such as a date after 9999
                        yield BadRow(origin, f"a value cannot be read: {one_line(e)}")
        except ArrowException as e:
            raise UserError(f"{path}: cannot be read after row {number}: {one_line(e)}") from None


def _parquet_file(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with user_error(f"{path}: not a readable Parquet file", pa.ArrowException, OSError):
        file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    if twice := [name for name in names if names.count(name) > 1]:
        file.close()
        raise UserError(f"{path}: two columns are called {twice[0]!r}")
    return file


def skeleton(fields: Any) -> dict[str, Any]:
    """Returns a row with the names of an Arrow schema or struct type, and None for values."""
    from pyarrow.types import is_struct

    return {f.name: skeleton(f.type) if is_struct(f.type) else None for f in fields}


def top_level(columns: tuple[str, ...], names: list[str]) -> list[str]:
    """Returns those of the names that hold the columns, which may be dotted."""
    wanted = (c if c in names else c.partition(".")[0] for c in columns)
    return [c for c in dict.fromkeys(wanted) if c in names]


def _open(path: Path) -> IO[bytes]:
    file = shipped.find(path)
    return cast(IO[bytes], gzip.open(file)) if path.suffix.lower() == ".gz" else file.open("rb")


_READERS: dict[str, Callable[[Path, tuple[str, ...]], Iterator[Record | BadRow]]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl.gz": _jsonl,
    ".json.gz": _json,
    ".csv.gz": _csv,
}


def _suffix(name: str) -> str | None:
    return next((suffix for suffix in _READERS if name.lower().endswith(suffix)), None)
