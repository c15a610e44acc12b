"""A shard: a part of a stage's rows, stored in open journals until it is sealed as Parquet.

A journal (NAME.OWNER.jsonl) gets one line per finished or failed work item, each with a checksum; a line
whose checksum does not match counts as absent, so its item runs again. Once every item is done, the shard is
sealed as NAME.parquet and the journals are removed. `scheduler.py` decides which items run and when a shard
is sealed.

Every process that works on a shard is an owner with a journal of its own. A shard may have two owners at
once: a machine that was lost or paused can come back after its shard was given to another one. Each reads
the journals of all owners and appends to its own only; the first that seals the shard wins.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pipeline.arrow_schema import arrow_schema
from pipeline.engine import atomic_files, owner, sealed_file
from pipeline.engine.checksums import intact, parse
from pipeline.engine.journal import end_of_last_line, journals_in
from pipeline.errors import Stopped
from pipeline.rows import Row

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS, GROUP_BYTES = 256, 64 * 2**20  # limits of a Parquet row group
BATCH_ROWS = 16  # rows converted to Arrow at once: a long trace takes many times its size as Python objects
_Place = tuple[Path, int]  # a line: its journal and its offset

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
    """A part of a stage's rows: open journals or a sealed Parquet file, as one of its owners sees it."""

    def __init__(
        self, folder: Path, name: str, row: type[Row], lineage: dict[str, Any], owner_name: str | None = None
    ) -> None:
        self.name = name
        self.row = row
        self.path = folder / f"{name}.parquet"
        self.journal = folder / f"{name}.{owner_name or owner.this_owner()}.jsonl"  # the owner's
        self.lineage = lineage
        self._known: set[Path] = set()  # journals of owners that came before this one

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

    def count(self, journals: Sequence[Path] | None = None) -> Counts:
        """Counts the rows. `journals`: those of this shard, if the caller has listed the folder already."""
        contents = JournalContents() if self.sealed else self._contents((), journals)
        if not self.sealed:  # checked again: another process may have sealed it during the read
            done = contents.rows.keys() - contents.failed.keys()
            return Counts(rows=len(done), failed=len(contents.failed), shards=1)
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

    def journals(self) -> list[Path]:
        """The journals of all owners, the earliest owner first and this one last."""
        return sorted(journals_in(self.path.parent).get(self.name, ()), key=self.journal.__eq__)

    def read_journal(self, fields: Sequence[str] = ()) -> JournalContents:
        """Reads the journals of all owners, keeping these fields of each row.

        A key can be in both `rows` and `failed`: its first step is done and a later one failed. If another
        owner seals the shard meanwhile, the rows are those of the sealed file.
        """
        contents = self._contents(fields)
        if self.sealed:
            rows = {record["id"]: record for record in self.records({"id", *fields})}
            contents = JournalContents({k: {f: row[f] for f in fields} for k, row in rows.items()})
        return contents

    def journal_rows(self, keys: Collection[str] | None = None) -> Iterator[Any]:
        """The rows with these keys (default: all), complete, as `read_journal` finds them."""
        entries = (e for _, e in self._entries() if "row" in e)
        found = {e["key"]: e["row"] for e in entries if keys is None or e["key"] in keys}
        if self.sealed:
            yield from (row for row in self.rows() if keys is None or row.id in keys)
        else:
            yield from map(self.row.model_validate, found.values())

    def repair(self) -> int:
        """Begins the work: makes the own journal, or cuts a torn last line off it.

        Returns how many complete lines are damaged in all journals. Another owner may still be writing the
        last line of its journal.
        """
        if self.journal.exists():
            with self.journal.open("rb+") as own:
                own.truncate(end_of_last_line(own))
                os.fsync(own.fileno())
        else:
            atomic_files.append(self.journal, b"")
        # Listed after that: if two owners begin at the same time, at most one sees the other as new
        journals = self.journals()
        self._known = set(journals)
        lines = (line for _, line in self._lines(journals))
        return sum(line.endswith(b"\n") and not intact(line) for line in lines)

    def taken_over(self, journals: Iterable[Path]) -> bool:
        """Whether one of the shard's journals is of an owner that began after this one."""
        return not self._known.issuperset(journals)

    def append(self, lines: Iterable[bytes]) -> None:
        """Appends lines made by `done_line` and `failed_line`; they are on disk when this returns."""
        atomic_files.append(self.journal, b"".join(lines))
        if self.sealed:  # by another owner, which has removed the journals that it saw
            self.journal.unlink(missing_ok=True)

    def seal(self, order: Sequence[str], report: Mapping[str, int] = MappingProxyType({})) -> None:
        """Turns the journals into Parquet, with the rows in the order of these keys.

        Raises Stopped when a row was damaged in the meantime.
        """
        with self._unless_sealed():
            places = {entry["key"]: place for place, entry in self._entries() if "row" in entry}
            if missing := sum(key not in places for key in order):
                raise self._damaged(f"{missing} rows were damaged; run the command again to redo them")
            self.write(self._rows_at([places[key] for key in order]), report)

    def write(self, rows: Iterable[dict[str, Any]], report: Mapping[str, int] = MappingProxyType({})) -> None:
        """Seals the shard with these rows, and with counts for the stage's report.

        A shard that another process has sealed by then stays as it is.
        """
        metadata = {"retort": json.dumps(self.lineage, sort_keys=True)}
        if report:
            metadata["retort.report"] = json.dumps(dict(report), sort_keys=True)
        schema = arrow_schema(self.row)
        with self._unless_sealed():
            groups = _row_groups(rows, schema)
            sealed_file.write(self.path, schema.with_metadata(metadata), groups)
            self.remove_journals()

    def remove_journals(self) -> None:
        """Removes the journals of all owners. The shard must be sealed."""
        for journal in self.journals():
            journal.unlink(missing_ok=True)

    @contextmanager
    def _unless_sealed(self) -> Iterator[None]:
        """Lets errors pass unless the shard is sealed by then: another owner takes the journals away."""
        try:
            yield
        except (OSError, Stopped):
            if not self.sealed:
                raise
            self.remove_journals()

    def _damaged(self, what: str) -> Stopped:
        return Stopped(f"{self.path.with_suffix('')}: {what}")

    def _rows_at(self, places: Sequence[_Place]) -> Iterator[dict[str, Any]]:
        with ExitStack() as stack:
            opened = cache(lambda journal: stack.enter_context(journal.open("rb")))
            for journal, offset in places:
                file = opened(journal)
                file.seek(offset)
                entry = parse(file.readline())
                if entry is None:
                    raise self._damaged("a row was damaged; run the command again to redo it")
                yield entry["row"]

    def _contents(self, fields: Sequence[str], journals: Sequence[Path] | None = None) -> JournalContents:
        contents = JournalContents()
        for _, entry in self._entries(journals):
            key = entry["key"]
            if "row" in entry:
                contents.rows[key] = {name: entry["row"][name] for name in fields}
                contents.failed.pop(key, None)
            elif not (entry.get("first") and key in contents.rows):  # else another owner succeeded
                contents.failed[key] = entry["failed"]
        return contents

    def _entries(self, journals: Sequence[Path] | None = None) -> Iterator[tuple[_Place, dict[str, Any]]]:
        """The valid lines of all journals, parsed. A later row of a key replaces an earlier one.

        A row of another owner that is less far than one before it is left out: a paused owner may have got
        further than the one after it. This owner's rows always stay, because its decisions rest on them.
        """
        furthest: dict[str, tuple[int, ...]] = {}
        for place, line in self._lines(self.journals() if journals is None else journals):
            if (entry := parse(line)) is None:
                continue
            if "row" in entry:
                key, reached = entry["key"], self.row.reached(entry["row"])
                if reached < furthest.get(key, reached) and place[0] != self.journal:
                    continue
                furthest[key] = reached
            yield place, entry

    def _lines(self, journals: Iterable[Path]) -> Iterator[tuple[_Place, bytes]]:
        for journal in journals:
            try:
                file = journal.open("rb")
            except FileNotFoundError:
                continue
            offset = 0
            with file:
                for line in file:
                    yield (journal, offset), line
                    offset += len(line)


def _row_groups(rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.Table]:
    """Splits rows into row groups. The split depends on the rows alone, so equal rows give equal bytes."""
    import pyarrow as pa

    rest = iter(rows)
    batches: list[pa.RecordBatch] = []
    size = 0  # bytes of the batches
    while some := list(islice(rest, BATCH_ROWS)):
        batches.append(pa.RecordBatch.from_pylist(some, schema=schema))
        size += batches[-1].nbytes
        if len(batches) * BATCH_ROWS >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.Table.from_batches(batches, schema)
            batches, size = [], 0
    if batches:
        yield pa.Table.from_batches(batches, schema)
