"""Rows of a run as lazy tables, which read only the fields and row groups that are used.

rejected = run.traces.where(outcome="rejected", source="gsm8k")
len(rejected)                              # reads two columns
rejected.columns(["id", "reason"])         # an Arrow table; .to_arrow(), .to_pandas(), .to_datasets()
next(iter(rejected))                       # typed rows, a few in memory at a time
rejected.sample(5, seed=1)                 # a table again, of the row groups that it needs

Arrow reads them, because conditions may be any expression of Arrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pipeline.engine import sealed_file
from pipeline.errors import UserError, nearest
from pipeline.rows import Row, Trace, Verdict, arrow_schema

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

R = TypeVar("R", bound=Row)
BATCH = 64  # rows that are Python objects at once
SHOWN = 5  # rows in a notebook
SHOWN_FIELDS: dict[type[Row], Sequence[str]] = {  # in a notebook, of rows that are too wide to show whole
    Trace: ("id", "source", "question", "reference", "outcome", "reason", "reasoning", "response"),
}


class TraceVerdict(Verdict):
    """A verdict with the ids of its trace and problem."""

    trace_id: str
    problem_id: str


@dataclass(frozen=True, repr=False)
class RowTable(Generic[R]):
    """Typed rows of Parquet files that meet a condition. Subclasses read them."""

    row: type[R]
    paths: Sequence[Path]
    condition: pc.Expression | None = None

    def batches(self, names: Sequence[str] | None = None, size: int = 1024) -> Iterator[pa.RecordBatch]:
        """The rows as Arrow, at most `size` at a time: all fields, or those named."""
        raise NotImplementedError

    def where(self, *conditions: pc.Expression, **values: Any) -> Self:
        """The rows with these values in these fields; a list means any of them, None an empty field.

        Other conditions are Arrow's, e.g. pc.field("completion_tokens") > 1000.
        """
        added = [*conditions, *(self._equals(name, value) for name, value in values.items())]
        known = [] if self.condition is None else [self.condition]
        return replace(self, condition=reduce(lambda a, b: a & b, [*known, *added])) if added else self

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some fields of all rows, without reading the others."""
        import pyarrow as pa

        self._check_fields(names)
        schema = arrow_schema(self.row)
        return pa.Table.from_batches(self.batches(names), pa.schema([schema.field(name) for name in names]))

    def to_arrow(self) -> pa.Table:
        return self.columns(list(self.row.model_fields))

    def to_pandas(self) -> pd.DataFrame:
        return self.to_arrow().to_pandas()

    def to_datasets(self) -> datasets.Dataset:
        import datasets

        return datasets.Dataset(self.to_arrow())

    def head(self, count: int = 5) -> list[R]:
        """The first rows."""
        return list(islice(self, count))

    def __iter__(self) -> Iterator[R]:
        for batch in self.batches(size=BATCH):
            for record in batch.to_pylist():
                yield self.row.model_validate(record)

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self.batches([next(iter(self.row.model_fields))]))

    def __repr__(self) -> str:
        fields = ", ".join(self.row.model_fields)
        return f"<{len(self):,} rows of {self.row.__name__} in {len(self.paths)} shards: {fields}>"

    def _repr_html_(self) -> str:
        from pipeline.inspect import notebook

        names = list(SHOWN_FIELDS.get(self.row, self.row.model_fields))
        count = len(self)
        caption = f"{count:,} rows of {self.row.__name__} in {len(self.paths)} shards"
        if count > SHOWN:
            caption += f"; the first {SHOWN}"
        records = (record for batch in self.batches(names, SHOWN) for record in batch.to_pylist())
        return notebook.table(caption, names, [[r[name] for name in names] for r in islice(records, SHOWN)])

    def _equals(self, name: str, value: Any) -> pc.Expression:
        import pyarrow as pa
        import pyarrow.compute as pc

        self._check_fields([name])
        kind = arrow_schema(self.row).field(name).type
        if pa.types.is_nested(kind):
            raise UserError(f"where: {name!r} of {self.row.__name__} has fields of its own, not one value")
        if value is None:
            return pc.field(name).is_null()
        if isinstance(value, list | tuple | set | frozenset):
            return pc.field(name).isin(pa.array(list(value), kind))
        return pc.field(name) == value

    def _check_fields(self, names: Sequence[str]) -> None:
        known = self.row.model_fields
        if unknown := next((name for name in names if name not in known), None):
            raise UserError(f"{self.row.__name__} has no field {unknown!r}" + nearest(unknown, known))


@dataclass(frozen=True, repr=False)
class Rows(RowTable[R]):
    """The rows of sealed shards; `groups` are the row groups of each file that are read, all if None."""

    groups: Mapping[Path, Sequence[int]] | None = field(default=None)

    def batches(self, names: Sequence[str] | None = None, size: int = 1024) -> Iterator[pa.RecordBatch]:
        """As in RowTable. Read ahead is one batch of one file, so memory is that of a row group or two."""
        limits = {"batch_size": size, "batch_readahead": 1, "fragment_readahead": 1}
        columns = None if names is None else list(names)
        yield from self._dataset(names).scanner(columns=columns, filter=self.condition, **limits).to_batches()

    def columns(self, names: Sequence[str]) -> pa.Table:
        self._check_fields(names)
        return self._dataset(names).to_table(columns=list(names), filter=self.condition)

    def sample(self, n: int = 5, seed: int = 0) -> Rows[R]:
        """`n` of these rows drawn evenly; the same ones for the same seed and rows.

        Reads the fields that the condition names, then only the row groups of the rows drawn.
        """
        import numpy as np

        matches = {path: self._matches(path) for path in self.paths}
        count = sum(map(len, matches.values()))
        drawn = np.sort(np.random.default_rng(seed).choice(count, size=min(n, count), replace=False))
        for path, found in matches.items():
            matches[path], drawn = found[drawn[drawn < len(found)]], drawn[drawn >= len(found)] - len(found)
        return self._at(matches)

    def located(self) -> Rows[R]:
        """The same rows, found once, so that only their row groups are read: for few rows of many."""
        return self._at({path: self._matches(path) for path in self.paths})

    def __len__(self) -> int:
        # File by file: Arrow would keep the footers of a thousand files, hundreds of MiB.
        return sum(self._only(path)._count() for path in self.paths)

    def _only(self, path: Path) -> Rows[R]:
        return replace(self, paths=[path])

    def _count(self) -> int:
        return int(self._dataset(()).count_rows(filter=self.condition, use_threads=False))

    def _dataset(self, names: Sequence[str] | None) -> Any:
        """The files as a dataset of Arrow. Raises UserError when these fields of one are damaged."""
        import pyarrow.dataset as ds

        condition = str(self.condition)  # contains the names of its fields
        read = [name for name in self.row.model_fields if names is None or name in names or name in condition]
        for path in self.paths:
            sealed_file.check(path, read)
        paths = [str(path) for path in self.paths]
        whole = ds.dataset(paths, schema=arrow_schema(self.row), format="parquet")
        if self.groups is None:
            return whole
        parts = [f.subset(row_group_ids=list(self.groups[Path(f.path)])) for f in whole.get_fragments()]
        return ds.FileSystemDataset(parts, whole.schema, whole.format, whole.filesystem)

    def _matches(self, path: Path) -> Any:
        """The positions of the rows of a file that meet the condition: int64, ascending."""
        import numpy as np

        file = self._only(path)
        if self.condition is None:
            return np.arange(file._count())
        table = file._dataset(()).to_table(columns={"match": self.condition}, use_threads=False)
        return np.flatnonzero(table.column("match").fill_null(False).to_numpy())

    def _at(self, positions: Mapping[Path, Any]) -> Rows[R]:
        """The rows at these positions of each file."""
        import pyarrow as pa
        import pyarrow.compute as pc

        groups: dict[Path, list[int]] = {}
        ids: list[str] = []
        for path, offsets in positions.items():
            if len(offsets):
                (part,) = self._only(path)._dataset(["id"]).get_fragments()
                groups[path], found = _groups_of(part, [int(offset) for offset in offsets])
                ids += found
        return Rows(self.row, list(groups), pc.field("id").isin(pa.array(ids, pa.string())), groups)


def _groups_of(part: Any, offsets: Sequence[int]) -> tuple[list[int], list[str]]:
    """The row groups of a file that hold the rows at these offsets, and the ids of these rows."""
    groups, ids, start = [], [], 0
    for group in part.row_groups:
        inside = [offset - start for offset in offsets if start <= offset < start + group.num_rows]
        if inside:
            groups.append(group.id)
            column = part.subset(row_group_ids=[group.id]).to_table(columns=["id"]).column("id")
            ids += column.take(inside).to_pylist()
        start += group.num_rows
    return groups, ids


@dataclass(frozen=True, repr=False)
class Verdicts(RowTable[TraceVerdict]):
    """Every verdict on every trace: the verdicts of the traces unnested, batch by batch."""

    row: type[TraceVerdict] = TraceVerdict
    paths: Sequence[Path] = ()

    def batches(self, names: Sequence[str] | None = None, size: int = 1024) -> Iterator[pa.RecordBatch]:
        wanted = list(names or TraceVerdict.model_fields)
        for batch in Rows(Trace, self.paths).batches(["id", "problem_id", "verdicts"], size):
            flat = _unnested(batch)
            yield (flat if self.condition is None else flat.filter(self.condition)).select(wanted)


def _unnested(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The verdicts of a batch of traces: columns id, problem_id, verdicts in; those of TraceVerdict out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    verdicts = batch.column("verdicts")
    flat, parents = verdicts.flatten(), pc.list_parent_indices(verdicts)
    columns = {name: flat.field(name) for name in Verdict.model_fields}
    columns |= {"trace_id": batch["id"].take(parents), "problem_id": batch["problem_id"].take(parents)}
    schema = arrow_schema(TraceVerdict)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
