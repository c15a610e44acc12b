"""Rows out of JSONL, JSON, CSV and Parquet files, one at a time; a row that cannot be read is a BadRow.

Files are not trusted: a line has a limit, broken UTF-8 and JSON cost a row and no more, and only a JSON array
is ever held whole. What the columns mean is sources.py's business.
"""

from __future__ import annotations

import codecs
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

RECORD_LIMIT = 16 * 2**20  # bytes of one row
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


_JSON = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant=Number)


class RecordTooLong(Exception):
    pass


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


class _Lines:
    """The lines of a file as bytes, counted from 1.

    `taken` counts the bytes of the record being read; whoever starts a new one sets it back to 0. In CSV a
    record may span lines, and a quote that is never closed would take in all the rest of the file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.number, self.taken = file, 0, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> bytes:
        line = self.file.readline(RECORD_LIMIT + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.taken += len(line)
        if self.taken > RECORD_LIMIT:
            while line and not line.endswith(b"\n"):
                line = self.file.readline(RECORD_LIMIT)
            raise RecordTooLong(f"longer than {RECORD_LIMIT >> 20} MB")
        return line.removeprefix(codecs.BOM_UTF8) if self.number == 1 else line


def _jsonl(path: Path, _: tuple[str, ...]) -> Iterator[Record | BadRow]:
    with _open(path) as file:
        lines = _Lines(file)
        while True:
            lines.taken = 0
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
        lines = _Lines(file)
        rows = csv.reader(map(_decoded, lines), strict=True)  # unlike a generator, map goes on after an error
        header: list[str] = []
        while True:
            lines.taken, origin = 0, f"{path}:{lines.number + 1}"
            try:
                cells = next(rows)
            except StopIteration:
                return
            except (csv.Error, RecordTooLong) as e:
                if not header:
                    raise UserError(f"{path}: no header can be read: {e}") from None
                yield BadRow(origin, f"not CSV: {e}")
                continue
            if cells and not header:
                header = _header(path, cells)
            elif cells and len(cells) != len(header):
                yield BadRow(origin, f"{len(cells)} cells where the header has {len(header)}")
            elif cells:
                yield Record(origin, dict(zip(header, cells, strict=True)))


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
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as e:
        raise UserError(f"{path}: not a Parquet file that can be read: {_first_line(e)}") from None


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
