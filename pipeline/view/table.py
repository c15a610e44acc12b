"""Traces with what later stages and people made of them, as one table that can be sorted and filtered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

from pipeline.engine.query import SHARD, Part, reading, rows_of
from pipeline.inspect.run import Run
from pipeline.inspect.table import RowTable
from pipeline.rows import Trace
from pipeline.select.marks import MARKS, NOTES, Mark, read_marks, read_notes

if TYPE_CHECKING:
    import duckdb


class ViewedTrace(Trace):
    """A trace with the columns of its example and score, and what people said of it."""

    characters: int  # of reasoning and response
    split: Literal["train", "validation"] | None  # of its training example; None: it is none
    pass_rate: float | None
    surprisal: float | None
    ratio: float | None
    naturalness: float | None
    student_pass_rate: float | None
    mark: Mark | None
    note: str | None


_SAID = ("mark", "note")
_OF_EXAMPLE = ("split", "pass_rate")
_OF_SCORE = ("surprisal", "ratio", "naturalness", "student_pass_rate")


@dataclass(frozen=True, repr=False)
class Viewed(RowTable[ViewedTrace]):
    """The traces of a filter stage, joined by id with examples, scores, marks and notes."""

    row: type[ViewedTrace] = ViewedTrace
    parts: Sequence[Part] = ()
    joined: Mapping[tuple[str, ...], RowTable[Any]] = field(default_factory=dict)  # columns -> their table
    said: Mapping[str, tuple[Mark | None, str | None]] = field(default_factory=dict)  # trace -> mark, note

    def narrowed(self, condition: str, **values: Any) -> Self:
        """The rows for which our own condition of SQL holds; it may use what `where` refuses."""
        return replace(self, conditions=(*self.conditions, condition), values={**self.values, **values})

    def within(self, shards: set[str]) -> Self:
        """The rows of these shards."""
        return replace(self, parts=[part for part in self.parts if part.shard.name in shards])

    def _reading(self, **settings: Any) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        parts = [part for table in (self, *self.joined.values()) for part in table.parts]
        return reading([path for part in parts for path in part.paths], **settings)

    def _source(
        self, connection: duckdb.DuckDBPyConnection, parts: Sequence[Part], names: Sequence[str]
    ) -> str:
        counted = ("reasoning", "response") if "characters" in names else ()
        own = dict.fromkeys(name for name in ("id", *names, *counted) if name in (*Trace.model_fields, SHARD))
        chosen = {name: f"t.{name}" for name in own}
        if counted:
            chosen["characters"] = "length(coalesce(t.reasoning, '')) + length(t.response)"
        joins = [f"({rows_of(connection, Trace, parts, list(own))}) t"]
        shards = {part.shard.name for part in parts}
        for number, (columns, table) in enumerate(self.joined.items()):
            if wanted := [name for name in columns if name in names]:
                same = [part for part in table.parts if part.shard.name in shards]
                other = rows_of(connection, table.row, same, ["id", *wanted])
                joins.append(f"({other}) j{number} on j{number}.id = t.id")
                chosen |= {name: f"j{number}.{name}" for name in wanted}
        if wanted := [name for name in _SAID if name in names]:
            connection.register("said", _said_table(self.said))
            joins.append("said on said.id = t.id")
            chosen |= {name: f"said.{name}" for name in wanted}
        for missing in names:  # the columns of tables that this stage lacks
            chosen.setdefault(missing, "null::varchar" if missing in ("split", *_SAID) else "null::double")
        listed = ", ".join(f"{expression} as {name}" for name, expression in chosen.items())
        return f"select {listed} from {' left join '.join(joins)}"


def viewed(run: Run, stage: str) -> Viewed:
    """The traces of a filter stage as they are now, those of open shards too."""
    traces = Viewed(parts=run.traces_of(stage).parts)
    if stage != "filter":  # answers of an evaluated model; another one's have the same ids
        return traces
    marks, notes = read_marks(run.path / MARKS), read_notes(run.path / NOTES)
    said = {
        id: (marks[id].mark if id in marks else None, notes.get(id)) for id in marks.keys() | notes.keys()
    }
    return replace(traces, joined={_OF_EXAMPLE: run.examples, _OF_SCORE: run.trace_scores}, said=said)


def _said_table(said: Mapping[str, tuple[Mark | None, str | None]]) -> Any:
    import pyarrow as pa

    schema = pa.schema([(name, pa.string()) for name in ("id", *_SAID)])
    rows = [{"id": id, "mark": mark, "note": note} for id, (mark, note) in said.items()]
    return pa.Table.from_pylist(rows, schema)
