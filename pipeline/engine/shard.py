"""A shard: a part of a stage's rows, stored as an open journal until it is sealed as Parquet.

The journal (NAME.jsonl) gets one line per finished or failed work item, each with a checksum; a line whose
checksum does not match counts as absent, so its item runs again. Once every item is done, the shard is sealed
as NAME.parquet and the journal is removed. `scheduler.py` decides which items run and when a shard is sealed.
"""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic_core import from_json

from pipeline.engine import atomic_files, sealed_file
from pipeline.errors import Stopped
from pipeline.rows import Row, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS, GROUP_BYTES = 256, 64 * 2**20  # limits of a Parquet row group
BATCH_ROWS = 16  # rows converted to Arrow at once: a long trace takes many times its size as Python objects

MISSING = "missing"  # a sealed shard's count of the rows that it lacks, if it was sealed with --partial


@dataclass
class JournalContents:
    """Selected fields of each row by its key, and the error of each item whose last attempt failed."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    rows: int = 0
    failed: int = 0
    shards: int = 0
    sealed: int = 0


class Shard:
    """A part of a stage's rows: an open journal or a sealed Parquet file."""

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
        """Reads the rows of a sealed shard, a few at a time. Raises UserError if it is damaged."""
        with sealed_file.opened(self.path, self.row.model_fields) as file:
            for batch in file.iter_batches(batch_size=64):
                for record in batch.to_pylist():
                    yield self.row.model_validate(record)

    def batches(self, leave_out: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
        """Reads a sealed shard as Arrow batches, without the columns in `leave_out`."""
        names = [name for name in self.row.model_fields if name not in leave_out]
        with sealed_file.opened(self.path, names) as file:
            yield from file.iter_batches(batch_size=GROUP_ROWS, columns=names)

    def records(self, names: Collection[str]) -> Iterator[dict[str, Any]]:
        """Reads these columns of a sealed shard, one dict per row."""
        for batch in self.batches(leave_out=set(self.row.model_fields) - set(names)):
            yield from batch.to_pylist()

    def values(self, *names: str) -> list[tuple[Any, ...]]:
        """These columns of every row, of an open shard too."""
        rows = self.records(names) if self.sealed else self.read_journal(names).rows.values()
        return [tuple(row[name] for name in names) for row in rows]

    def column(self, name: str) -> list[Any]:
        """Reads one column of a sealed shard."""
        with sealed_file.opened(self.path, [name]) as file:
            values: list[Any] = file.read(columns=[name]).column(name).to_pylist()
        return values

    def count(self) -> Counts:
        journal = JournalContents() if self.sealed else self.read_journal()
        if not self.sealed:  # checked again: another process may have sealed it during the read
            done = journal.rows.keys() - journal.failed.keys()
            return Counts(rows=len(done), failed=len(journal.failed), shards=1)
        with sealed_file.opened(self.path, ()) as file:
            return Counts(rows=file.metadata.num_rows, shards=1, sealed=1)

    def sealed_lineage(self) -> Any:
        """The lineage stored in the sealed file: the stage, version, settings and inputs that made it."""
        return self._metadata(b"retort")

    def report(self) -> Counter[str]:
        """The counts that the sealed file carries, such as how many rows it lacks."""
        return Counter(self._metadata(b"retort.report") or {})

    def _metadata(self, key: bytes) -> Any:
        with sealed_file.opened(self.path, ()) as file:
            return json.loads((file.schema_arrow.metadata or {}).get(key, b"null"))

    def read_journal(self, fields: Sequence[str] = ()) -> JournalContents:
        """Reads the journal, keeping these fields of each row. The last row with a key replaces earlier ones.

        A key can be in both `rows` and `failed`: its first step is done and a later one failed.
        """
        contents = JournalContents()
        for _, entry in self._entries():
            key = entry["key"]
            if "row" in entry:
                contents.rows[key] = {name: entry["row"][name] for name in fields}
                contents.failed.pop(key, None)
            else:
                contents.failed[key] = entry["failed"]
        return contents

    def journal_rows(self, keys: Collection[str] | None = None) -> Iterator[Any]:
        """The rows of the journal with these keys (default: all), complete."""
        entries = (e for _, e in self._entries() if "row" in e)
        rows = {e["key"]: e["row"] for e in entries if keys is None or e["key"] in keys}
        yield from map(self.row.model_validate, rows.values())

    def repair(self) -> int:
        """Cuts a torn last line off the journal, so that the next append starts on a line of its own.

        Returns how many of the remaining lines are damaged.
        """
        if not self.journal.exists():
            return 0
        with self.journal.open("rb+") as file:
            file.truncate(_end_of_last_line(file))
            os.fsync(file.fileno())
            file.seek(0)
            return sum(not _intact(line) for line in file)

    def append(self, lines: Iterable[bytes]) -> None:
        """Appends lines made by `done_line` and `failed_line`; they are on disk when this returns."""
        atomic_files.append(self.journal, b"".join(lines))

    def seal(self, order: Sequence[str], report: Mapping[str, int] = MappingProxyType({})) -> None:
        """Turns the journal into Parquet, with the rows in the order of these keys.

        Raises Stopped when a row was damaged in the meantime.
        """
        offsets = {entry["key"]: offset for offset, entry in self._entries() if "row" in entry}
        if missing := sum(key not in offsets for key in order):
            raise Stopped(f"{self.journal}: {missing} rows were damaged; run the command again to redo them")
        self.write(self._rows_at([offsets[key] for key in order]), report)

    def write(self, rows: Iterable[dict[str, Any]], report: Mapping[str, int] = MappingProxyType({})) -> None:
        """Seals the shard with these rows, and with counts for the stage's report.

        A shard that another process has sealed by then stays as it is.
        """
        self.write_groups(_row_groups(rows, arrow_schema(self.row)), report)

    def write_groups(
        self, groups: Iterable[pa.Table], report: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """Seals the shard with these tables, one row group each."""
        metadata = {"retort": json.dumps(self.lineage, sort_keys=True)}
        if report:
            metadata["retort.report"] = json.dumps(dict(report), sort_keys=True)
        schema = arrow_schema(self.row).with_metadata(metadata)
        sealed_file.write(self.path, schema, groups)
        self.journal.unlink(missing_ok=True)

    def _rows_at(self, offsets: Sequence[int]) -> Iterator[dict[str, Any]]:
        if not offsets:  # then the journal may not exist
            return
        with self.journal.open("rb") as file:
            for offset in offsets:
                file.seek(offset)
                entry = _parse(file.readline())
                if entry is None:
                    raise Stopped(f"{self.journal}: a row was damaged; run the command again to redo it")
                yield entry["row"]

    def _entries(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The intact lines of the journal, parsed, each with its offset."""
        try:
            file = self.journal.open("rb")
        except FileNotFoundError:
            return
        offset = 0
        with file:
            for line in file:
                entry = _parse(line)
                if entry is not None:
                    yield offset, entry
                offset += len(line)


def _row_groups(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Splits rows into row groups. The split depends on the rows alone, so equal rows give equal bytes."""
    import pyarrow as pa

    rest = iter(rows)
    batches: list[pa.RecordBatch] = []
    while some := list(islice(rest, BATCH_ROWS)):
        batches.append(pa.RecordBatch.from_pylist(some, schema=schema))
        if len(batches) * BATCH_ROWS >= GROUP_ROWS or sum(b.nbytes for b in batches) >= GROUP_BYTES:
            yield pa.Table.from_batches(batches, schema)
            batches = []
    if batches:
        yield pa.Table.from_batches(batches, schema)


def done_line(row: Any) -> bytes:
    """The journal line of a finished item. Its key is the row's id."""
    return _line(f'{{"key":{json.dumps(row.id)},"row":{row.model_dump_json()}'.encode())


def failed_line(key: str, error: str) -> bytes:
    """The journal line of a failed attempt; the item is not done and will be tried again."""
    return _line(json.dumps({"key": key, "failed": error}).encode()[:-1])


def _line(unclosed: bytes) -> bytes:
    """Closes a JSON object with its checksum as the last field."""
    return unclosed + b',"crc":"%08x"}\n' % zlib.crc32(unclosed)


_SUFFIX_BYTES = len(_line(b""))


def _intact(line: bytes) -> bool:
    return line == _line(line[:-_SUFFIX_BYTES])


def _parse(line: bytes) -> dict[str, Any] | None:
    return from_json(line) if _intact(line) else None


def _end_of_last_line(file: BinaryIO) -> int:
    """The offset just after the last newline; 0 if there is none."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0
