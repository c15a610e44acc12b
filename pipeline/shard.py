"""A shard: some rows of a stage on disk, as an open journal or as a sealed Parquet file.

The journal (NAME.jsonl) has a line for each finished unit until every unit wanted is in; then the shard is
sealed as NAME.parquet and the journal goes. When and in which order that happens is units.py's to say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pydantic_core import from_json

from pipeline.rows import Row, arrow_schema


@dataclass
class Held:
    """What a journal holds: the keys of finished units, and the error of those that failed last time."""

    keys: set[str] = field(default_factory=set)
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
        """The rows of a sealed shard, read a few hundred at a time."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=256):
                for record in batch.to_pylist():
                    yield self.row.model_validate(record)

    def count(self) -> Counts:
        import pyarrow.parquet as pq

        held = Held() if self.sealed else self.held()
        if not self.sealed:  # asked again: another process may have sealed it while we read
            return Counts(rows=len(held.keys), failed=len(held.failed), shards=1)
        return Counts(rows=pq.read_metadata(self.path).num_rows, shards=1, sealed=1)

    def held(self) -> Held:
        """What the journal holds. A torn or unreadable line is work still owed, as if it were not there."""
        held = Held()
        for line in self._lines():
            if "row" in line:
                held.keys.add(line["key"])
                held.failed.pop(line["key"], None)
            elif line["key"] not in held.keys:
                held.failed[line["key"]] = line["failed"]
        return held

    def mend(self) -> None:
        """Cut a torn last line off the journal, so that what is appended next starts on a line of its own."""
        if not self.journal.exists():
            return
        with self.journal.open("rb+") as file:
            file.truncate(_end_of_last_line(file))
            os.fsync(file.fileno())

    def append(self, lines: Iterable[bytes]) -> None:
        """Add finished units, made by `done_line` and `failed_line`; they are on disk when this returns."""
        new = not self.journal.exists()
        with self.journal.open("ab") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        if new:
            _sync_folder(self.journal.parent)

    def seal(self, order: Sequence[str]) -> None:
        """Turn the journal into Parquet, rows in the given order of their keys; all of them must be in."""
        rows = {line["key"]: line["row"] for line in self._lines() if "row" in line}
        self.write(rows[key] for key in order)

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Seal the shard with these rows. It is there whole or not at all, whenever the process dies."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = arrow_schema(self.row).with_metadata({"retort": json.dumps(self.lineage, sort_keys=True)})
        temporary = self.path.with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), temporary, compression="zstd")
        _replace(temporary, self.path)
        self.journal.unlink(missing_ok=True)

    def _lines(self) -> Iterator[dict[str, Any]]:
        try:
            file = self.journal.open("rb")
        except FileNotFoundError:
            return
        with file:
            for text in file:
                try:
                    yield from_json(text)
                except ValueError:
                    continue


def done_line(row: Any) -> bytes:
    """A journal line: this unit is done. The key is the row's id."""
    return f'{{"key":{json.dumps(row.id)},"row":{row.model_dump_json()}}}\n'.encode()


def failed_line(key: str, error: str) -> bytes:
    """A journal line: this unit was tried and failed; it is still owed."""
    return (json.dumps({"key": key, "failed": error}) + "\n").encode()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a small file so that readers see the old content or the new, never a part."""
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(data)
    _replace(temporary, path)


def _replace(temporary: Path, path: Path) -> None:
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
