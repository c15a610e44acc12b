"""Rows out of JSONL, JSON, CSV and Parquet files, one at a time; a row that cannot be read is a BadRow.

Files are not trusted: a line has a limit, broken UTF-8 and JSON cost a row and no more, and only a JSON array
is ever held whole. What the columns mean is sources.py's business.
"""

from __future__ import annotations

import csv
import glob
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, cast

from pipeline.errors import UserError
from pipeline.ingest.lines import RECORD_LIMIT, Lines, RecordTooLong

JSON_LIMIT = 2**30  # bytes of a JSON array, which is held whole
HEAD = 100  # rows to learn the columns from


@dataclass(frozen=True)
class Record:
    origin: str  # for people: "problems.jsonl:12"
    values: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    origin: str
    why: str


class Number(str):
    """A number as the file writes it, so that 0.10 stays 0.10."""

    __slots__ = ()


class _Doubled(dict[str, Any]):
    """A JSON object in which one name stands twice, or that holds such an object."""

    name = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    within = [value.name for value in found.values() if isinstance(value, _Doubled)]
    if len(found) == len(pairs) and not within:
        return found
    names = [name for name, _ in pairs]
    doubled = _Doubled(found)
    doubled.name = next((name for name in names if names.count(name) > 1), *within[:1])
    return doubled


_JSON = json.JSONDecoder(
    parse_float=Number, parse_int=Number, parse_constant=Number, object_pairs_hook=_object
)


def find(pattern: str) -> list[Path]:
    """The files of a path or a glob pattern, sorted. Raises UserError for none, or for a kind not read."""
    paths = [Path(pattern)] if Path(pattern).exists() else map(Path, glob.glob(pattern, recursive=True))
    files = sorted(path for path in paths if path.is_file())
    if not files:
        raise UserError(f"{pattern}: no such file")
    for path in files:
        if _reader(path) is None:
            raise UserError(f"{path}: this kind of file is not read; those that are: {', '.join(_READERS)}")
    return files


def without_suffix(name: str) -> str:
    """A file's name without the suffix that says how to read it."""
    suffix = max((s for s in _READERS if name.lower().endswith(s)), key=len, default="")
    return name[: len(name) - len(suffix)]


def records(path: Path, columns: tuple[str, ...] = ()) -> Iterator[Record | BadRow]:
    """The rows of a file; of Parquet only the named columns, where some are named.

    Raises UserError when the file as a whole cannot be read.
    """
    reader = _reader(path)
    assert reader is not None, "find() lets through what can be read"
    try:
        yield from reader(path, columns)
    except (OSError, EOFError, zlib.error) as e:
        raise UserError(f"{path}: cannot be read: {e}") from None


def head(path: Path) -> Iterator[Record | BadRow]:
    """The first rows of a file, to learn its columns from; of Parquet its schema, looking like a row."""
    if path.suffix.lower() == ".parquet":
        with _parquet_file(path) as file:
            return iter([Record(str(path), _skeleton(file.schema_arrow))] if file.metadata.num_rows else [])
    return islice(records(path), HEAD)


def _jsonl(path: Path, _: tuple[str, ...]) -> Iterator[Record | BadRow]:
    with _open(path) as file:
        lines = Lines(file)
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
    if isinstance(value, _Doubled):
        return BadRow(origin, f"the name {value.name!r} stands twice in it")
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
        raise UserError(f"{path}: larger than {JSON_LIMIT >> 30} GB; as JSONL, a row a line, it can be read")
    try:
        rows = _JSON.decode(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as e:
        line = f"line {e.lineno}: " if isinstance(e, json.JSONDecodeError) else ""
        raise UserError(f"{path}: {line}{_why(e)}; a row a line is JSONL, and wants .jsonl") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: not an array of objects")
    for number, row in enumerate(rows, start=1):
        yield _record(f"{path} row {number}", row)


def _csv(path: Path, _: tuple[str, ...]) -> Iterator[Record | BadRow]:
    csv.field_size_limit(RECORD_LIMIT)
    with _open(path) as file:
        lines = Lines(file)
        rows = csv.reader(map(_decoded, lines), strict=True)  # unlike a generator, map goes on after an error
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
                    raise UserError(f"{path}: no header can be read: {e}") from None
                if isinstance(e, RecordTooLong) or "end of data" in str(e) or "field limit" in str(e):
                    lines.give_back()  # a quote that nothing closes: what it took in are rows
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
    """Each line by itself: a quote out of place may have made one row of many."""
    yield BadRow(f"{path}:{first}", why)
    for number in range(first + 1, first + count):
        yield BadRow(f"{path}:{number}", f"taken in by the quote in line {first}")


def _decoded(line: bytes) -> str:
    return line.decode(errors="surrogateescape")  # not UTF-8: surrogates, which no good text has


def _header(path: Path, cells: list[str]) -> list[str]:
    twice = [name for name in cells if name and cells.count(name) > 1]
    if twice:
        raise UserError(f"{path}: the header names column {twice[0]!r} twice")
    return cells


def _parquet(path: Path, columns: tuple[str, ...]) -> Iterator[Record | BadRow]:
    from pyarrow import ArrowException

    with _parquet_file(path) as file:
        names = file.schema_arrow.names
        wanted = [c if c in names else c.partition(".")[0] for c in columns] or None
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
        except ArrowException as e:
            raise UserError(f"{path}: cannot be read after row {number}: {_first_line(e)}") from None


def _parquet_file(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as e:
        raise UserError(f"{path}: not a Parquet file that can be read: {_first_line(e)}") from None
    names = file.schema_arrow.names
    if twice := [name for name in names if names.count(name) > 1]:
        file.close()
        raise UserError(f"{path}: two columns are called {twice[0]!r}")
    return file


def _skeleton(fields: Any) -> dict[str, Any]:
    """A row with the names of a schema or a struct type, and None for values."""
    from pyarrow.types import is_struct

    return {f.name: _skeleton(f.type) if is_struct(f.type) else None for f in fields}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _open(path: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")


_Reader = Callable[[Path, tuple[str, ...]], Iterator[Record | BadRow]]
_READERS: dict[str, _Reader] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".jsonl.gz": _jsonl,
    ".json.gz": _json,
    ".csv.gz": _csv,
}


def _reader(path: Path) -> _Reader | None:
    return next((read for suffix, read in _READERS.items() if path.name.lower().endswith(suffix)), None)
