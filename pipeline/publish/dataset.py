"""The data set: a row an example with all that made it, as Parquet shards named the way the hub expects.

Rows are joined shard by shard with the traces they were made of, so memory is bounded by one shard of the
run. Leaves out log-probabilities, and the text of errors, which may name a machine.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipeline.engine.shard import Shard
from pipeline.inspect.run import Run
from pipeline.publish.facts import public
from pipeline.rows import AnswerType, Message, Row, Sampling, Trace, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

PART_BYTES = 512 * 2**20  # of a file's rows as Arrow holds them; compressed it is a third of that or less
TRAIN, VALIDATION = "train", "validation"
_OF_TRACE = (
    "question",
    "reference",
    "answer_type",
    "reasoning",
    "response",
    "prompt_hash",
    "sampling",
    "seed",
)
_LEFT_OUT = frozenset({"logprobs", "error"})


class Published(Row):
    """A row of the published data set: an example, its problem and its trace, and what made them."""

    id: str  # the trace's id
    problem_id: str
    messages: tuple[Message, ...]  # the last one is the assistant's, as in Example
    question: str
    reference: str | None
    answer_type: AnswerType
    reasoning: str | None  # None: the teacher thought in its response, or not at all
    response: str
    source: str
    pass_rate: float | None
    confidence: float | None
    tokens: int | None
    teacher: str
    prompt_hash: str  # of the prompt that the teacher was asked with
    sampling: Sampling
    seed: int | None  # None: not sent
    filters: tuple[str, ...]  # those that passed it, "name@version"
    run: str
    recipe: str  # hash of all settings and inputs that made the row


@dataclass
class Rows:
    """What was written: rows by split, examples by source and teacher."""

    splits: Counter[str] = field(default_factory=Counter)
    by_source: Counter[tuple[str, str]] = field(default_factory=Counter)
    traces: int | None = None  # None: they are not part of it


def write(run: Run, folder: Path, with_traces: bool) -> Rows:
    """Write data/SPLIT-00000-of-NNNNN.parquet, and traces/ where they are wanted."""
    rows = Rows()
    made_by = _made_by(run)
    schema = arrow_schema(Published)
    with _Parts(folder / "data", TRAIN, schema) as train, _Parts(folder / "data", VALIDATION, schema) as rest:
        for examples, traces in zip(
            run.output("select").shards(), run.output("filter").shards(), strict=True
        ):
            table = _joined(examples, traces, made_by)
            rows.by_source.update(zip(*(table[c].to_pylist() for c in ("source", "teacher")), strict=True))
            splits = examples.column("split")
            for part in (train, rest):
                part.write(table.filter([each == part.split for each in splits]))
        rows.splits.update({part.split: part.close() for part in (train, rest)})
    if with_traces:
        rows.traces = _write_traces(run, folder / "traces", made_by)
    return rows


def _made_by(run: Run) -> dict[str, str]:
    manifest = run.output("select").manifest()
    assert manifest is not None, "examples are complete"
    return {"run": run.path.name, "recipe": manifest.identity}


def _joined(examples: Shard, traces: Shard, made_by: dict[str, str]) -> pa.Table:
    """The rows of one shard, in the order of its examples."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen = pa.Table.from_batches(examples.batches(), arrow_schema(examples.row))
    if not len(chosen):
        return arrow_schema(Published).empty_table()
    wanted = chosen["id"].combine_chunks()
    found = [
        kept
        for batch in traces.batches(_LEFT_OUT)
        if len(kept := batch.filter(pc.is_in(batch["id"], wanted)))
    ]
    drawn = pa.Table.from_batches(found)
    drawn = drawn.take(pc.index_in(wanted, drawn["id"].combine_chunks()))
    columns = {name: chosen[name] for name in arrow_schema(Published).names if name in chosen.column_names}
    columns |= {name: drawn[name] for name in _OF_TRACE}
    columns |= {"filters": _filters(drawn["verdicts"]), "teacher": _public(chosen["teacher"])}
    columns |= {name: pa.repeat(value, len(chosen)) for name, value in made_by.items()}
    schema = arrow_schema(Published)
    return pa.table([columns[name] for name in schema.names], names=schema.names).cast(schema)


def _filters(verdicts: Any) -> Any:
    """The names and versions of the rules that judged each trace."""
    import pyarrow as pa

    named = [[f"{v['filter']}@{v['version']}" for v in each] for each in verdicts.to_pylist()]
    return pa.array(named, pa.list_(pa.string()))


def _public(names: Any) -> Any:
    """Names of models without this machine's folders."""
    import pyarrow as pa

    return pa.array([public(name) for name in names.to_pylist()], pa.string())


def _without_errors(verdicts: Any) -> Any:
    """Verdicts without the evidence of those that could not tell: it may be an error that names a machine."""
    import pyarrow as pa
    import pyarrow.compute as pc

    flat = verdicts.flatten()
    fields = {field.name: flat.field(field.name) for field in flat.type}
    unknown = pc.equal(fields["outcome"], "undecided")
    fields["evidence"] = pc.if_else(unknown, pa.scalar(None, pa.string()), fields["evidence"])
    plain = pa.StructArray.from_arrays(list(fields.values()), fields=list(flat.type))
    offsets = pc.subtract(verdicts.offsets, verdicts.offsets[0])
    return pa.ListArray.from_arrays(offsets, plain, type=verdicts.type)


def _write_traces(run: Run, folder: Path, made_by: dict[str, str]) -> int:
    """Every trace with its verdicts, rejected ones too."""
    import pyarrow as pa

    schema = pa.schema(
        [
            *(f for f in arrow_schema(Trace) if f.name not in _LEFT_OUT),
            *(pa.field(name, pa.string(), nullable=False) for name in made_by),
        ]
    )
    with _Parts(folder, TRAIN, schema) as parts:
        for shard in run.output("filter").shards():
            for batch in shard.batches(_LEFT_OUT):
                table = pa.table({name: batch[name] for name in schema.names if name in batch.schema.names})
                for column, shown in (("teacher", _public), ("verdicts", _without_errors)):
                    at = table.schema.get_field_index(column)
                    table = table.set_column(at, column, shown(batch[column]))
                for name, value in made_by.items():
                    table = table.append_column(name, pa.repeat(value, len(batch)))
                parts.write(table.cast(schema))
        return parts.close()


class _Parts:
    """The files of a split; how many there are is known at the end, so they get their names then."""

    def __init__(self, folder: Path, split: str, schema: pa.Schema) -> None:
        self.folder, self.split, self.schema = folder, split, schema
        self.rows = self.files = self.bytes = 0
        self.writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """pyarrow closes what is still open when it collects it, and prints a traceback where that fails."""
        if self.writer is not None:
            self.writer.is_open = False

    def write(self, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        if not len(table):
            return
        if self.writer is None or self.bytes >= PART_BYTES:
            self._end()
            self.folder.mkdir(exist_ok=True)
            self.writer = pq.ParquetWriter(self._name(self.files), self.schema, compression="zstd")
            self.files += 1
        self.writer.write_table(table)
        self.rows += len(table)
        self.bytes += table.nbytes

    def close(self) -> int:
        """Name the files; gives the number of rows."""
        self._end()
        for number in range(self.files):
            name = f"{self.split}-{number:05d}-of-{self.files:05d}.parquet"
            self._name(number).rename(self.folder / name)
        return self.rows

    def _name(self, number: int) -> Path:
        return self.folder / f"{self.split}-{number:05d}.part"

    def _end(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer, self.bytes = None, 0
