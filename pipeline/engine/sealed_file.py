"""Sealed Parquet files: written once, with checksums of all their bytes that are compared on reading.

Before Parquet's footer, where readers look at nothing, lies a seal: the CRC-32 of every column of every row
group, then their number, then a CRC-32 of all that and of the footer. So a flipped bit is found in whatever
part is read, and no other part has to be read for it.

Parquet's own checksums cover the data of pages alone: neither their headers nor the footer.
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

_END = struct.Struct("<II8s")  # number of checksums, checksum of them and the footer, mark
_MARK = b"checksum"
_PIECE = 1 << 20  # bytes read at once


def write(path: Path, schema: pa.Schema, groups: Iterable[pa.Table]) -> None:
    """Write these tables, a row group each. The file is there whole or not at all; one there stays."""
    import pyarrow.parquet as pq

    with new_file(path) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for group in groups:
                writer.write_table(group.cast(schema))
        _add_seal(temporary)


def load() -> None:
    """Load what writing needs, before work that waits for nobody.

    With its first file pyarrow loads pandas, which takes a second or more, in which answers that are paid
    would lie in memory alone.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [0]}), pa.BufferOutputStream())


@contextmanager
def opened(path: Path, columns: Collection[str] | None = None) -> Iterator[pq.ParquetFile]:
    """A sealed file, to read these columns of, or all. Raises UserError when they are damaged or missing."""
    import pyarrow.parquet as pq

    check(path, columns)
    with damage_told(path), pq.ParquetFile(path) as file:
        yield file


def check(path: Path, columns: Collection[str] | None = None) -> None:
    """Raise UserError unless the file holds these columns, or all that it has, as they were written."""
    with damage_told(path):
        found = path.stat()
        _check(
            path,
            None if columns is None else tuple(columns),
            (found.st_ino, found.st_size, found.st_mtime_ns),
        )


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """What cannot be read of a sealed file is its damage: a UserError that says what to do about it.

    An error of the system, such as too many open files, stays what it is.
    """
    from pyarrow import ArrowException

    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: is not there any more") from None
    except MemoryError:
        raise
    except (ArrowException, OSError, ValueError, KeyError) as e:
        if isinstance(e, OSError) and e.errno:
            raise
        why = (str(e).splitlines() or [""])[0]
        raise UserError(
            f"{path} is damaged ({why}): put a copy in its place, or delete it, and its stage makes it again"
        ) from None


class _Damaged(ValueError):
    """Bytes are not those that were written."""


@lru_cache(maxsize=4096)
def _check(path: Path, columns: tuple[str, ...] | None, _version: tuple[int, int, int]) -> None:
    """What was found good once is not read twice; `_version` changes with the file."""
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        sums = _sums(file)
        if columns == ():
            return
        metadata = pq.read_metadata(path)
        if missing := sorted(set(columns or ()) - set(metadata.schema.to_arrow_schema().names)):
            raise _Damaged(f"it has no column {missing[0]!r}")
        chunks = list(_chunks(metadata))
        if sums is None:
            return
        if len(sums) != len(chunks):
            raise _Damaged("its checksums are of another file")
        for (name, start, size), wanted in zip(chunks, sums, strict=True):
            if (columns is None or name in columns) and _crc(file, start, size) != wanted:
                raise _Damaged(f"the column {name!r} is not as it was written")


def _add_seal(path: Path) -> None:
    import pyarrow.parquet as pq

    chunks = list(_chunks(pq.read_metadata(path)))
    with path.open("rb+") as file:
        start = _footer(file)
        file.seek(start)
        footer = file.read()
        sums = b"".join(struct.pack("<I", _crc(file, at, size)) for _, at, size in chunks)
        end = _END.pack(len(chunks), zlib.crc32(sums + footer), _MARK)
        file.seek(start)
        file.write(sums + end + footer)


def _sums(file: BinaryIO) -> tuple[int, ...] | None:
    """The checksums of the columns, in the order of _chunks; None in a file that was not sealed here."""
    start = _footer(file)
    if start < _END.size:
        return None
    file.seek(start - _END.size)
    count, crc, mark = _END.unpack(file.read(_END.size))
    if mark != _MARK:
        return None
    begin = start - _END.size - 4 * count
    if begin < 0:
        raise _Damaged("its checksums are damaged")
    file.seek(begin)
    sums, _, footer = file.read(4 * count), file.read(_END.size), file.read()
    if zlib.crc32(sums + footer) != crc:
        raise _Damaged("its footer is not as it was written")
    return struct.unpack(f"<{count}I", sums)


def _footer(file: BinaryIO) -> int:
    """Where the footer starts: its length is in the last 8 bytes of a Parquet file, with a mark."""
    size = file.seek(0, os.SEEK_END)
    if size < 8:
        raise _Damaged(f"it has {size} bytes")
    file.seek(size - 8)
    length, mark = struct.unpack("<I4s", file.read(8))
    if mark != b"PAR1" or length + 8 > size:
        raise _Damaged("it does not end as a Parquet file does")
    return int(size - 8 - length)


def _chunks(metadata: Any) -> Iterator[tuple[str, int, int]]:
    """Column, offset and bytes of every column of every row group; of nested columns, of each leaf."""
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            start = column.data_page_offset
            if column.has_dictionary_page:
                start = min(start, column.dictionary_page_offset)
            yield column.path_in_schema.partition(".")[0], start, column.total_compressed_size


def _crc(file: BinaryIO, start: int, size: int) -> int:
    crc = 0
    file.seek(start)
    while size > 0 and (piece := file.read(min(size, _PIECE))):
        crc = zlib.crc32(piece, crc)
        size -= len(piece)
    return crc
