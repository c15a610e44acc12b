"""Rows of a run as lazy tables: nothing is read before it is asked for, and then no more than that.

rejected = run.traces.where(outcome="rejected", source="gsm8k")
len(rejected)                              # reads two columns
rejected.columns(["id", "reason"])         # an Arrow table; .to_arrow(), .to_pandas(), .to_datasets()
next(iter(rejected))                       # typed rows, a few in memory at a time
rejected.sample(5, seed=1)                 # again a table, of the row groups that it needs

Leaves out which rows a run has and where they lie (run.py), and how a notebook shows them (notebook.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from pipeline.engine import sealed_file
from pipeline.errors import UserError, nearest
from pipeline.rows import Row, Verdict, arrow_schema

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

R = TypeVar("R", bound=Row)
FEW = 64  # rows that are Python objects at once


class TraceVerdict(Verdict):
    """A verdict beside the trace and problem that it is about."""

    trace_id: str
    problem_id: str


@dataclass(frozen=True, repr=False)
class Table(Generic[R]):
    """Typed rows in Parquet files, those that meet a condition. What subclasses say is how they are read."""

    row: type[R]
    paths: Sequence[Path]
    condition: pc.Expression | None = None

    def batches(self, names: Sequence[str] | None = None, size: int = 1024) -> Iterator[pa.RecordBatch]:
        """The rows as Arrow, at most `size` at a time; of all fields or of those named."""
        raise NotImplementedError

    def where(self, *conditions: pc.Expression, **values: Any) -> Self:
        """The rows that have these values in these fields; a list means any of them, None an empty field.

        Other conditions are Arrow's, e.g. pc.field("completion_tokens") > 1000.
        """
        import pyarrow.compute as pc

        new = [*conditions, *(self._equals(name, value) for name, value in values.items())]
        condition = self.condition
        for one in new:
            condition = one if condition is None else condition & one
        return replace(self, condition=pc.scalar(True) if condition is None else condition)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some fields of all rows, without reading the others."""
        import pyarrow as pa

        for name in names:
            self._known(name)
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
        for batch in self.batches(size=FEW):
            for record in batch.to_pylist():
                yield self.row.model_validate(record)

    def __len__(self) -> int:
        return sum(batch.num_rows for batch in self.batches([next(iter(self.row.model_fields))]))

    def __repr__(self) -> str:
        fields = ", ".join(self.row.model_fields)
        return f"<{len(self):,} rows of {self.row.__name__} in {len(self.paths)} shards: {fields}>"

    def _repr_html_(self) -> str:
        from pipeline.inspect import notebook

        return notebook.table(self)

    def _equals(self, name: str, value: Any) -> pc.Expression:
        import pyarrow as pa
        import pyarrow.compute as pc

        self._known(name)
        kind = arrow_schema(self.row).field(name).type
        if pa.types.is_nested(kind):
            raise UserError(
                f"where: {name!r} of {self.row.__name__} has fields of its own; it is no one value"
            )
        if value is None:
            return pc.field(name).is_null()
        if isinstance(value, list | tuple | set | frozenset):
            return pc.field(name).isin(pa.array(list(value), kind))
        return pc.field(name) == value

    def _known(self, name: str) -> None:
        if name not in self.row.model_fields:
            raise UserError(
                f"{self.row.__name__} has no field {name!r}" + nearest(name, self.row.model_fields)
            )


@dataclass(frozen=True, repr=False)
class Rows(Table[R]):
    """The rows of sealed shards; `groups` are the row groups of each file that are read, if not all."""

    groups: Mapping[Path, Sequence[int]] | None = field(default=None)

    def batches(self, names: Sequence[str] | None = None, size: int = 1024) -> Iterator[pa.RecordBatch]:
        """As in Table. Read ahead is one batch of one file, so that memory is that of a row group or two."""
        limits = {"batch_size": size, "batch_readahead": 1, "fragment_readahead": 1}
        columns = None if names is None else list(names)
        yield from self._dataset(names).scanner(columns=columns, filter=self.condition, **limits).to_batches()

    def columns(self, names: Sequence[str]) -> pa.Table:
        for name in names:
            self._known(name)
        return self._dataset(names).to_table(columns=list(names), filter=self.condition)

    def sample(self, n: int = 5, seed: int = 0) -> Rows[R]:
        """`n` of these rows, each as likely as any other; the same ones for the same seed and rows.

        Reads the fields that the condition names, then the row groups in which the rows drawn lie.
        """
        import numpy as np

        held = {path: self._met(path) for path in self.paths}
        count = sum(map(len, held.values()))
        drawn = np.sort(np.random.default_rng(seed).choice(count, size=min(n, count), replace=False))
        for path, met in held.items():
            held[path], drawn = met[drawn[drawn < len(met)]], drawn[drawn >= len(met)] - len(met)
        return self._at(held)

    def located(self) -> Rows[R]:
        """The same rows, for few of many: found once, then no other row group is read."""
        return self._at({path: self._met(path) for path in self.paths})

    def __len__(self) -> int:
        # Each file by itself: what Arrow keeps of a thousand files' footers would be hundreds of MiB.
        return sum(replace(self, paths=[path])._count() for path in self.paths)

    def _count(self) -> int:
        return int(self._dataset(()).count_rows(filter=self.condition, use_threads=False))

    def _dataset(self, names: Sequence[str] | None) -> Any:
        """The files as Arrow's dataset, to read these fields of. Raises UserError when they are damaged."""
        import pyarrow.dataset as ds

        condition = str(self.condition)  # names its fields
        read = [name for name in self.row.model_fields if names is None or name in names or name in condition]
        for path in self.paths:
            sealed_file.check(path, read)
        paths = [str(path) for path in self.paths]
        whole = ds.dataset(paths, schema=arrow_schema(self.row), format="parquet")
        if self.groups is None:
            return whole
        parts = [f.subset(row_group_ids=list(self.groups[Path(f.path)])) for f in whole.get_fragments()]
        return ds.FileSystemDataset(parts, whole.schema, whole.format, whole.filesystem)

    def _met(self, path: Path) -> Any:
        """The positions of the rows of a file that meet the condition, int64, ascending."""
        import numpy as np

        one = replace(self, paths=[path])
        if self.condition is None:
            return np.arange(one._count())
        met = one._dataset(()).to_table(columns={"met": self.condition}, use_threads=False).column("met")
        return np.flatnonzero(met.fill_null(False).to_numpy())

    def _at(self, positions: Mapping[Path, Any]) -> Rows[R]:
        """The rows at these positions of each file."""
        import pyarrow as pa
        import pyarrow.compute as pc

        groups: dict[Path, list[int]] = {}
        ids: list[str] = []
        for path, offsets in positions.items():
            if len(offsets):
                (part,) = replace(self, paths=[path])._dataset(["id"]).get_fragments()
                groups[path], some = _groups_of(part, [int(at) for at in offsets])
                ids += some
        return Rows(self.row, list(groups), pc.field("id").isin(pa.array(ids, pa.string())), groups)


def _groups_of(part: Any, offsets: Sequence[int]) -> tuple[list[int], list[str]]:
    """The row groups of a file in which the rows at these offsets lie, and the ids of the rows."""
    groups, ids, start = [], [], 0
    for group in part.row_groups:
        inside = [at - start for at in offsets if start <= at < start + group.num_rows]
        if inside:
            groups.append(group.id)
            column = part.subset(row_group_ids=[group.id]).to_table(columns=["id"]).column("id")
            ids += column.take(inside).to_pylist()
        start += group.num_rows
    return groups, ids


@dataclass(frozen=True, repr=False)
class Verdicts(Table[TraceVerdict]):
    """Every verdict on every trace: the traces' lists of them unnested by Arrow, batch by batch."""

    row: type[TraceVerdict] = TraceVerdict
    paths: Sequence[Path] = ()

    def batches(self, names: Sequence[str] | None = None, size: int = 1024) -> Iterator[pa.RecordBatch]:
        from pipeline.rows import Trace

        wanted = list(names or TraceVerdict.model_fields)
        for batch in Rows(Trace, self.paths).batches(["id", "problem_id", "verdicts"], size):
            flat = _unnested(batch)
            yield (flat if self.condition is None else flat.filter(self.condition)).select(wanted)


def _unnested(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The verdicts of a batch of traces: columns id, problem_id, verdicts in, those of TraceVerdict out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    verdicts = batch.column("verdicts")
    flat, of = verdicts.flatten(), pc.list_parent_indices(verdicts)
    columns = {name: flat.field(name) for name in Verdict.model_fields}
    columns |= {"trace_id": batch.column("id").take(of), "problem_id": batch.column("problem_id").take(of)}
    schema = arrow_schema(TraceVerdict)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
