"""A shard: some rows of a stage on disk, as an open journal or as a sealed Parquet file.

The journal (NAME.jsonl) has a line for each finished unit until every unit wanted is in; then the shard is
sealed as NAME.parquet and the journal goes. When and in which order that happens is units.py's to say.
A line ends in a checksum of it; one that does not match is work still owed, as if it were not there.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic_core import from_json

from pipeline.engine import atomic_files, sealed_file
from pipeline.errors import Stopped
from pipeline.rows import Row, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS, GROUP_BYTES = 256, 64 * 2**20  # of a Parquet row group, whichever comes first
SLICE = 16  # rows turned into Arrow at once: as Python objects a long trace is many times its size


@dataclass
class Held:
    """What a journal holds: some fields of each row by its key, and the errors of units that failed last."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    rows: int = 0
    failed: int = 0
    shards: int = 0
    sealed: int = 0


class Shard:
    """Some rows of a stage: an open journal, or a sealed Parquet file."""

    def __init__(self, folder: Path, name: str, row: type[Row], lineage: dict[str, Any]) -> None:
        self.name = name
        self.row = row
        self.path = folder / f"{name}.parquet"
        self.journal = folder / f"{name}.jsonl"
        self.lineage = lineage

    @property
    def sealed(self) -> bool:
        return self.path.exists()

    def rows(self) -> Iterator[Any]:
        """The rows of a sealed shard, read a few at a time. Raises UserError when it is damaged."""
        with sealed_file.opened(self.path, self.row.model_fields) as file:
            for batch in file.iter_batches(batch_size=64):
                for record in batch.to_pylist():
                    yield self.row.model_validate(record)

    def batches(self, leave_out: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
        """The rows of a sealed shard as Arrow, a few at a time, without the columns to leave out."""
        names = [name for name in self.row.model_fields if name not in leave_out]
        with sealed_file.opened(self.path, names) as file:
            yield from file.iter_batches(batch_size=GROUP_ROWS, columns=names)

    def column(self, name: str) -> list[Any]:
        """One field of every row of a sealed shard, without reading the others."""
        with sealed_file.opened(self.path, [name]) as file:
            values: list[Any] = file.read(columns=[name]).column(name).to_pylist()
        return values

    def count(self) -> Counts:
        held = Held() if self.sealed else self.held()
        if not self.sealed:  # asked again: another process may have sealed it while we read
            return Counts(rows=len(held.rows.keys() - held.failed.keys()), failed=len(held.failed), shards=1)
        with sealed_file.opened(self.path, ()) as file:
            return Counts(rows=file.metadata.num_rows, shards=1, sealed=1)

    def lineage_found(self) -> Any:
        """What the sealed file itself says of its making."""
        with sealed_file.opened(self.path, ()) as file:
            return json.loads((file.schema_arrow.metadata or {}).get(b"retort", b"null"))

    def held(self, fields: Sequence[str] = ()) -> Held:
        """What the journal holds; of a key with several rows, the last. One may be held, then have failed."""
        held = Held()
        for _, line in self._lines():
            if "row" in line:
                held.rows[line["key"]] = {name: line["row"][name] for name in fields}
                held.failed.pop(line["key"], None)
            else:
                held.failed[line["key"]] = line["failed"]
        return held

    def find(self, keys: Collection[str]) -> Iterator[Any]:
        """The rows of an open journal with these keys."""
        rows = {}
        for _, line in self._lines():
            if "row" in line and line["key"] in keys:
                rows[line["key"]] = line["row"]
        for row in rows.values():
            yield self.row.model_validate(row)

    def mend(self) -> int:
        """Cut a torn last line off the journal, so that what is appended next starts on a line of its own.

        Gives how many of the other lines are damaged.
        """
        if not self.journal.exists():
            return 0
        with self.journal.open("rb+") as file:
            file.truncate(_end_of_last_line(file))
            os.fsync(file.fileno())
            file.seek(0)
            return sum(not _sound(line) for line in file)

    def append(self, lines: Iterable[bytes]) -> None:
        """Add finished units, made by `done_line` and `failed_line`; they are on disk when this returns."""
        atomic_files.append(self.journal, b"".join(lines))

    def seal(self, order: Sequence[str]) -> None:
        """Turn the journal into Parquet, rows in the given order of their keys; all of them were in.

        Raises Stopped when one has been damaged since.
        """
        at = {line["key"]: offset for offset, line in self._lines() if "row" in line}
        if missing := sum(key not in at for key in order):
            raise Stopped(
                f"{self.journal}: {missing} rows were damaged; the same command asks for them again"
            )
        self.write(self._rows_at([at[key] for key in order]))

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Seal the shard with these rows. It is there whole or not at all, whenever the process dies.

        A shard that is sealed by then stays as it is: another process did the same work.
        """
        self.write_groups(_row_groups(rows, arrow_schema(self.row)))

    def write_groups(self, groups: Iterable[pa.Table]) -> None:
        """Seal the shard with these tables, one row group each."""
        schema = arrow_schema(self.row).with_metadata({"retort": json.dumps(self.lineage, sort_keys=True)})
        sealed_file.write(self.path, schema, groups)
        self.journal.unlink(missing_ok=True)

    def _rows_at(self, offsets: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The rows of the lines at these places of the journal; without any it need not be there."""
        if offsets:
            with self.journal.open("rb") as file:
                for offset in offsets:
                    file.seek(offset)
                    entry = _entry(file.readline())
                    if entry is None:
                        raise Stopped(
                            f"{self.journal}: a row was damaged; the same command asks for it again"
                        )
                    yield entry["row"]

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """What each line of the journal that is not damaged says, with its offset."""
        try:
            file = self.journal.open("rb")
        except FileNotFoundError:
            return
        offset = 0
        with file:
            for text in file:
                entry = _entry(text)
                if entry is not None:
                    yield offset, entry
                offset += len(text)


def _row_groups(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows as tables of a row group each; where one ends depends on the rows alone."""
    import pyarrow as pa

    left = iter(rows)
    held: list[pa.RecordBatch] = []
    while some := list(islice(left, SLICE)):
        held.append(pa.RecordBatch.from_pylist(some, schema=schema))
        full = len(held) * SLICE >= GROUP_ROWS or sum(batch.nbytes for batch in held) >= GROUP_BYTES
        if full:
            yield pa.Table.from_batches(held, schema)
            held = []
    if held:
        yield pa.Table.from_batches(held, schema)


def done_line(row: Any) -> bytes:
    """A journal line: this unit is done. The key is the row's id."""
    return _line(f'{{"key":{json.dumps(row.id)},"row":{row.model_dump_json()}'.encode())


def failed_line(key: str, error: str) -> bytes:
    """A journal line: this unit was tried and failed; it is still owed."""
    return _line(json.dumps({"key": key, "failed": error}).encode()[:-1])


def _line(begun: bytes) -> bytes:
    """A line of a JSON object that is not closed yet, with its checksum."""
    return begun + b',"crc":"%08x"}\n' % zlib.crc32(begun)


_TAIL = len(_line(b""))


def _sound(line: bytes) -> bool:
    """Whether a line is as it was written."""
    return line == _line(line[:-_TAIL])


def _entry(line: bytes) -> dict[str, Any] | None:
    """What a line says; None of a damaged one."""
    return from_json(line) if _sound(line) else None


def _end_of_last_line(file: BinaryIO) -> int:
    """Offset just behind the last newline; 0 when there is none."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
