"""Rows of a run as lazy tables, read by DuckDB: only the columns and shards that are used.

>>> run = pipeline.open_run("demo")
>>> rejected = run.traces.where("completion_tokens > 101", outcome="rejected", source="others")
>>> len(rejected)  # reads three columns
3
>>> rejected.columns(["id", "reason"]).num_rows  # an Arrow table; .sample(2) is a table like this one
3
>>> [trace.completion_tokens for trace in rejected]  # typed rows, a few in memory at a time
[102, 102, 102]
>>> run.examples.to_datasets().num_rows  # a DatasetDict: the rows have a split
{'train': 12}

Shards that are still open are read too, as far as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar, get_args

from pydantic import TypeAdapter, ValidationError

from pipeline.arrow_schema import arrow_schema
from pipeline.engine.query import SHARD, Part, connect, reading, rows_of
from pipeline.errors import UserError, nearest
from pipeline.rows import Row, Trace, Verdict

if TYPE_CHECKING:
    import datasets
    import duckdb
    import pandas as pd
    import pyarrow as pa

R = TypeVar("R", bound=Row)
BATCH = 64  # rows that are Python objects at once
COLUMNS = "columns"  # the field with the columns of the problem's source
SHOWN = 5  # rows in a notebook
SHOWN_FIELDS: dict[type[Row], Sequence[str]] = {  # in a notebook, of rows that are too wide to show whole
    Trace: ("id", "source", "question", "reference", "outcome", "reason", "reasoning", "response"),
}
# One thread that scans traces and looks up their verdicts keeps the rows in order.
_IN_ORDER = {"threads": 1, "disabled_optimizers": "join_order,build_side_probe_side"}


@dataclass(frozen=True, repr=False)
class RowTable(Generic[R]):
    """Typed rows of a stage's shards that meet all conditions."""

    row: type[R]
    parts: Sequence[Part]
    conditions: tuple[str, ...] = ()  # of SQL
    values: Mapping[str, Any] = field(default_factory=dict)  # of the conditions' parameters
    key: ClassVar[tuple[str, ...]] = ("id",)  # the fields that name a row

    def where(self, *conditions: str, **values: Any) -> Self:
        """The rows with these values in these fields; a list means any of them, None an empty field.

        `columns={"level": [4, 5]}` is about columns of the problem's source. Other conditions are SQL over
        the fields, e.g. "completion_tokens > 1000", or "columns->>'level' = '5'".

        >>> traces = pipeline.open_run("demo").traces
        >>> len(traces.where("sample < 2", outcome=["kept", "undecided"], columns={"level": 1}))
        3
        >>> traces.where(outcome="keptt")
        Traceback (most recent call last):
        filters.errors.UserError: where: outcome = 'keptt': did you mean 'kept'?
        >>> traces.where(sorce="sums")
        Traceback (most recent call last):
        filters.errors.UserError: Trace has no field 'sorce'; did you mean 'source'?
        """
        added, given = [self._checked(condition) for condition in conditions], dict(self.values)
        wanted: list[tuple[str, list[Any]]] = []  # SQL expressions and their values
        for name, value in values.items():
            if name == COLUMNS and isinstance(value, dict):
                self._schema([name])  # the field is known
                wanted += [_of_column(given, column, each) for column, each in value.items()]
            else:
                wanted.append((name, self._checked_values(name, value)))
        for expression, each in wanted:
            parameter = f"value{len(given)}"
            given[parameter] = each
            empty = f" or {expression} is null" if None in each else ""
            added.append(f"{expression} in (select unnest(${parameter})){empty}")
        return replace(self, conditions=(*self.conditions, *added), values=given)

    def batches(self, names: Sequence[str] | None = None, size: int = 1024) -> Iterator[pa.RecordBatch]:
        """The rows in order as Arrow, at most `size` at a time: all fields, or those named."""
        names = list(self.row.model_fields if names is None else names)
        self._schema(names)  # all names are known
        with self._reading(**_IN_ORDER) as connection:
            for part in self.located().parts if self.conditions else self.parts:
                rows = self._select(connection, [part], ", ".join(names), names)
                yield from rows.to_arrow_reader(size)

    def query(self, columns: Sequence[str], text: str, **values: Any) -> list[tuple[Any, ...]]:
        """Returns the answer to a SELECT over these columns as the view `rows`; [] if there is no shard."""
        if not self.parts:
            return []
        with self._reading() as connection:
            self._select(connection, self.parts, ", ".join(columns), columns).create_view("rows")
            return connection.execute(text, values).fetchall()

    def located(self) -> Self:
        """The same rows, without the shards that hold none of them; reads the fields of the conditions."""
        with self._reading() as connection:
            found = self._select(connection, self.parts, f"distinct {SHARD}", [SHARD]).fetchall()
        names = {name for (name,) in found}
        return replace(self, parts=[part for part in self.parts if part.shard.name in names])

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some fields of all rows, without reading the others."""
        import pyarrow as pa

        batches = list(self.batches(names))
        return pa.Table.from_batches(batches) if batches else self._schema(names).empty_table()

    def to_arrow(self) -> pa.Table:
        return self.columns(list(self.row.model_fields))

    def to_pandas(self) -> pd.DataFrame:
        return self.to_arrow().to_pandas()

    def to_datasets(self) -> datasets.Dataset | datasets.DatasetDict:
        """All rows as a Dataset of the library `datasets`; rows with a split as a DatasetDict of splits."""
        import datasets
        import pyarrow.compute as pc

        rows = self.to_arrow()
        if "split" not in self.row.model_fields:
            return datasets.Dataset(rows)
        splits = rows["split"].unique().to_pylist()
        parts = {split: rows.filter(pc.equal(rows["split"], split)) for split in splits}
        return datasets.DatasetDict({split: datasets.Dataset(part) for split, part in parts.items()})

    def head(self, count: int = 5) -> list[R]:
        """The first rows."""
        return list(islice(self, count))

    def sample(self, n: int = 5, seed: int = 0) -> Self:
        """`n` of these rows sampled uniformly; the same ones for the same seed and rows."""
        key = f"concat_ws(' ', {', '.join(self.key)})"
        drawn = self.query(
            self.key, f"select {key} from rows order by md5({key} || {int(seed)}), 1 limit {int(n)}"
        )
        condition = f"{key} in (select unnest($keys))"
        return replace(self, conditions=(condition,), values={"keys": [key for (key,) in drawn]})

    def top(self, n: int, expression: str, smallest: bool = False) -> list[R]:
        """The `n` rows with the largest values of an expression of SQL over the fields, largest first."""
        key = f"concat_ws(' ', {', '.join(self.key)})"
        read = [name for name in self.row.model_fields if name in self.key or name in expression]
        order = f"{expression} {'asc' if smallest else 'desc'} nulls last, 1"
        keys = [found for (found,) in self.query(read, f"select {key} from rows order by {order} limit {n}")]
        rows = replace(self, conditions=(f"{key} in (select unnest($keys))",), values={"keys": keys})
        return sorted(rows, key=lambda row: keys.index(" ".join(str(getattr(row, k)) for k in self.key)))

    def __iter__(self) -> Iterator[R]:
        for batch in self.batches(size=BATCH):
            for record in batch.to_pylist():
                yield self.row.model_validate(record)

    def __len__(self) -> int:
        if not self.parts:
            return 0
        with self._reading() as connection:
            (found,) = self._select(connection, self.parts, "count(*)", self.key).fetchall()
        return int(found[0])

    def __repr__(self) -> str:
        return f"<{self._summary()}: {', '.join(self.row.model_fields)}>"

    def _repr_html_(self) -> str:
        from pipeline.inspect import notebook

        names = list(SHOWN_FIELDS.get(self.row, self.row.model_fields))
        records = [r for batch in islice(self.batches(names, SHOWN), SHOWN) for r in batch.to_pylist()][
            :SHOWN
        ]
        caption = self._summary() + (f"; the first {SHOWN}" if len(records) == SHOWN else "")
        return notebook.table(caption, names, [[record[name] for name in names] for record in records])

    def _summary(self) -> str:
        still_open = sum(not part.shard.sealed for part in self.parts)
        so_far = f", {still_open} of them open: rows so far" if still_open else ""
        return f"{len(self):,} rows of {self.row.__name__} in {len(self.parts)} shards{so_far}"

    def _reading(self, **settings: Any) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        return reading([path for part in self.parts for path in part.paths], **settings)

    def _select(
        self,
        connection: duckdb.DuckDBPyConnection,
        parts: Sequence[Part],
        wanted: str,
        columns: Sequence[str],
    ) -> duckdb.DuckDBPyRelation:
        """What is wanted of the rows of these parts that meet the conditions: SQL over these columns."""
        fields, conditions = (*self.row.model_fields, SHARD), " ".join(self.conditions).lower()
        read = [name for name in fields if name in columns or name in conditions]
        where = " and ".join(f"({condition}\n)" for condition in self.conditions) or "true"
        rows = self._source(connection, parts, read)
        return connection.sql(f"select {wanted} from ({rows}) rows where {where}", params=dict(self.values))

    def _source(
        self, connection: duckdb.DuckDBPyConnection, parts: Sequence[Part], names: Sequence[str]
    ) -> str:
        return rows_of(connection, self.row, parts, names)

    def _schema(self, names: Sequence[str]) -> pa.Schema:
        """The Arrow schema of these fields. Raises UserError for a field that the rows do not have."""
        import pyarrow as pa

        known = self.row.model_fields
        if unknown := next((name for name in names if name not in known), None):
            raise UserError(f"{self.row.__name__} has no field {unknown!r}" + nearest(unknown, known))
        return pa.schema([arrow_schema(self.row).field(name) for name in names])

    def _checked_values(self, name: str, value: Any) -> list[Any]:
        """Returns the values of a condition. Raises UserError for a value that the field cannot have."""
        import pyarrow as pa

        if pa.types.is_nested(self._schema([name]).field(name).type):
            raise UserError(f"where: {name!r} of {self.row.__name__} has fields of its own, not one value")
        kind: Any = self.row.model_fields[name].annotation
        values = _as_list(value)
        for each in values:
            try:
                TypeAdapter(kind | None).validate_python(each)
            except ValidationError as e:
                known = get_args(kind)
                what = nearest(str(each), known) if known and all(isinstance(k, str) for k in known) else ""
                why = what.removeprefix("; ") or e.errors()[0]["msg"]
                raise UserError(f"where: {name} = {each!r}: {why}") from None
        return values

    def _checked(self, condition: str) -> str:
        """Returns a condition that is one expression of SQL over the fields, else raises UserError."""
        import duckdb

        with connect(()) as connection:
            connection.register("rows", arrow_schema(self.row).empty_table())
            text = f"select 1 from rows where ({condition}\n)"
            try:
                duckdb.SQLExpression(condition)
                (parsed,) = connection.execute("select json_serialize_sql($text)", {"text": text}).fetchall()
                if '"class":"SUBQUERY"' in parsed[0]:
                    raise UserError(f"where: {condition!r} has a query of its own: use run.sql")
                connection.execute(text)
            except duckdb.Error as e:
                if unknown := re.search(r'Referenced column "(.+?)" not found', str(e)):
                    self._schema([unknown[1]])
                raise UserError(f"where: {condition!r}: {str(e).splitlines()[0]}") from None
        return condition


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set | frozenset) else [value]


def _of_column(given: dict[str, Any], column: str, value: Any) -> tuple[str, list[str | None]]:
    """A column of the source as SQL, and the texts to compare it with; adds its name to the parameters."""
    parameter = f"value{len(given)}"
    given[parameter] = "/" + column.replace("~", "~0").replace("/", "~1")  # a JSON pointer (RFC 6901)
    return f"json_extract_string({COLUMNS}, ${parameter})", [_as_text(each) for each in _as_list(value)]


def _as_text(value: Any) -> str | None:
    """A value of a column as JSON writes it, without quotes."""
    if value is None:
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


class TraceVerdict(Verdict):
    """A verdict with the ids of its trace and problem."""

    trace_id: str
    problem_id: str


@dataclass(frozen=True, repr=False)
class Verdicts(RowTable[TraceVerdict]):
    """Every verdict on every trace: the verdicts of the traces unnested."""

    row: type[TraceVerdict] = TraceVerdict
    parts: Sequence[Part] = ()
    key: ClassVar[tuple[str, ...]] = ("trace_id", "filter")

    def _source(
        self, connection: duckdb.DuckDBPyConnection, parts: Sequence[Part], names: Sequence[str]
    ) -> str:
        traces = rows_of(connection, Trace, parts, ("id", "problem_id", "verdicts", SHARD))
        return (
            f"select id as trace_id, problem_id, {SHARD}, unnest(verdicts, recursive := true) from ({traces})"
        )
