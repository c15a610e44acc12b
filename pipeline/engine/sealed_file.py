"""Sealed Parquet files: written once, with checksums of all data and the footer, verified on reading.

The seal lies just before Parquet's footer, where readers do not look: the CRC-32 of every column chunk (each
column of each row group), their number, and a CRC-32 over the seal and the footer. A flipped bit is found in
whatever part is read, and no other part has to be read for that. Parquet's own checksums cover page data,
but not page headers or the footer.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pipeline.engine.atomic_files import new_file
from pipeline.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_TRAILER = struct.Struct("<II8s")  # number of checksums, CRC-32 of the seal and the footer, magic
_MAGIC = b"checksum"
_BLOCK = 1 << 20  # bytes read at once


def write(path: Path, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Writes the tables, one row group each, and seals the file. An existing file stays as it is."""
    import pyarrow.parquet as pq

    with new_file(path) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in groups:
                writer.write_table(group.cast(schema))
        _add_seal(temporary)


def preload() -> None:
    """Loads what writing needs, before paid requests start.

    pyarrow loads pandas with its first file. That takes a second or more, in which paid responses would exist
    in memory only.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [0]}), pa.BufferOutputStream())


@contextmanager
def opened(path: Path, columns: Collection[str] | None = None) -> Iterator[pq.ParquetFile]:
    """Opens a sealed file to read these columns (default: all). Raises UserError if they are damaged."""
    import pyarrow.parquet as pq

    check(path, columns)
    with _damage_as_user_error(path), pq.ParquetFile(path) as file:
        yield file


def check(path: Path, columns: Collection[str] | None = None) -> None:
    """Raises UserError unless the file has these columns (default: all) exactly as they were written."""
    with _damage_as_user_error(path):
        stat = path.stat()
        version = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        _check(path, None if columns is None else tuple(columns), version)


@contextmanager
def _damage_as_user_error(path: Path) -> Iterator[None]:
    """Turns errors of reading into a UserError with advice; system errors (too many open files) pass."""
    from pyarrow import ArrowException

    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no longer exists") from None
    except MemoryError:
        raise
    except (ArrowException, OSError, ValueError, KeyError) as e:
        if isinstance(e, OSError) and e.errno:
            raise
        why = (str(e).splitlines() or [""])[0]
        raise UserError(
            f"{path} is damaged ({why}): restore it from a copy, or delete it and run its stage again"
        ) from None


class _Damaged(ValueError):
    """The bytes differ from those that were written."""


@lru_cache(maxsize=4096)
def _check(path: Path, columns: tuple[str, ...] | None, _version: tuple[int, int, int]) -> None:
    """Compares checksums; cached per version of the file, so that nothing is verified twice."""
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        checksums = _read_seal(file)
        if columns == ():
            return
        metadata = pq.read_metadata(path)
        if missing := sorted(set(columns or ()) - set(metadata.schema.to_arrow_schema().names)):
            raise _Damaged(f"it has no column {missing[0]!r}")
        if checksums is None:
            return
        chunks = list(_chunks(metadata))
        if len(checksums) != len(chunks):
            raise _Damaged("its checksums belong to another file")
        for (name, start, size), expected in zip(chunks, checksums, strict=True):
            if (columns is None or name in columns) and _crc(file, start, size) != expected:
                raise _Damaged(f"the checksum of column {name!r} does not match")


def _add_seal(path: Path) -> None:
    import pyarrow.parquet as pq

    chunks = list(_chunks(pq.read_metadata(path)))
    with path.open("rb+") as file:
        start = _footer_offset(file)
        file.seek(start)
        footer = file.read()
        checksums = b"".join(struct.pack("<I", _crc(file, offset, size)) for _, offset, size in chunks)
        trailer = _TRAILER.pack(len(chunks), zlib.crc32(checksums + footer), _MAGIC)
        file.seek(start)
        file.write(checksums + trailer + footer)


def _read_seal(file: BinaryIO) -> tuple[int, ...] | None:
    """Returns the checksums in the order of `_chunks`; None for a file without a seal."""
    end = _footer_offset(file) - _TRAILER.size
    if end < 0:
        return None
    file.seek(end)
    count, crc, magic = _TRAILER.unpack(file.read(_TRAILER.size))
    if magic != _MAGIC:
        return None
    start = end - 4 * count
    if start < 0:
        raise _Damaged("its seal is damaged")
    file.seek(start)
    checksums, _, footer = file.read(4 * count), file.read(_TRAILER.size), file.read()
    if zlib.crc32(checksums + footer) != crc:
        raise _Damaged("the checksum of its footer does not match")
    return struct.unpack(f"<{count}I", checksums)


def _footer_offset(file: BinaryIO) -> int:
    """A Parquet file ends in its footer's length (4 bytes) and a magic number."""
    size = file.seek(0, os.SEEK_END)
    if size < 8:
        raise _Damaged(f"it has {size} bytes")
    file.seek(size - 8)
    length, magic = struct.unpack("<I4s", file.read(8))
    if magic != b"PAR1" or length + 8 > size:
        raise _Damaged("it does not end like a Parquet file")
    return int(size - 8 - length)


def _chunks(metadata: Any) -> Iterator[tuple[str, int, int]]:
    """Yields column name, offset and size of every column chunk; one for each leaf of a nested column."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            start = column.data_page_offset
            if column.has_dictionary_page:
                start = min(start, column.dictionary_page_offset)
            yield column.path_in_schema.partition(".")[0], start, column.total_compressed_size


def _crc(file: BinaryIO, start: int, size: int) -> int:
    crc = 0
    file.seek(start)
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        crc = zlib.crc32(block, crc)
        size -= len(block)
    return crc
