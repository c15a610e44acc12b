"""Writes the data set: a row for each example with its provenance, as Parquet files named as the hub expects.

Examples are joined with their traces shard by shard, so memory is bounded by one shard of the run.
Log-probabilities are left out, and so is the text of errors, which may name a machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipeline.arrow_schema import arrow_schema
from pipeline.engine.shard import Shard
from pipeline.filter.verdicts import filtered_batches
from pipeline.inspect.run import Run
from pipeline.publish import columns as published_columns
from pipeline.publish.facts import public_rule, teacher_names
from pipeline.rows import AnswerType, ExampleKind, Message, Row, Sampling, Trace

if TYPE_CHECKING:
    import pyarrow as pa

PART_BYTES = 512 * 2**20  # of a file's rows in Arrow; compressed to a third of that or less
TRAIN, VALIDATION = "train", "validation"
_OF_TRACE = (
    *("question", "reference", "answer_type", "reasoning", "response"),
    *("teacher_generation", "prompt_hash", "sampling", "seed", "columns"),
)
_LEFT_OUT = frozenset({"logprobs", "error"})


class Published(Row):
    """A row of the published data set: an example with its problem, its trace and their provenance.

    Examples of kind "chat" are of other data sets and stay out.
    """

    id: str  # the trace's id
    problem_id: str
    messages: tuple[Message, ...]  # the last one is the assistant's, as in Example
    kind: ExampleKind
    question: str
    reference: str | None
    answer_type: AnswerType
    reasoning: str | None  # None: the teacher reasoned in its response, or not at all
    response: str
    source: str
    columns: str | None  # of the source; written as a struct, or left out where no source keeps any
    pass_rate: float | None
    confidence: float | None
    tokens: int | None
    teacher: str
    teacher_generation: str | None  # "1", or "1+" for at least 1 (pipeline/generations.py); None: unknown
    prompt_hash: str | None  # of the teacher's prompt; None as the sampling: of a trace that a source gave
    sampling: Sampling | None
    seed: int | None  # None: not sent
    filters: tuple[str, ...]  # that the trace passed, "name@version"
    run: str
    recipe: str  # hash of all settings and inputs behind the row


@dataclass
class Written:
    """Numbers of rows: by split, and of examples by source and teacher."""

    splits: Counter[str] = field(default_factory=Counter)
    by_source: Counter[tuple[str, str]] = field(default_factory=Counter)
    traces: int | None = None  # None: traces are not published
    chats: int = 0  # examples of other data sets, which are not published


def write(run: Run, folder: Path, with_traces: bool) -> Written:
    """Writes data/SPLIT-00000-of-NNNNN.parquet, and traces/ if with_traces."""
    written = Written()
    made_by, names = _made_by(run), teacher_names(run)
    kind = published_columns.type_of(run.output("generate").sealed_paths())
    schema = published_columns.with_columns(arrow_schema(Published), kind)
    with _Parts(folder / "data", TRAIN, schema) as train, _Parts(folder / "data", VALIDATION, schema) as rest:
        stages = (run.output(stage).shards() for stage in ("select", "generate", "filter"))
        for examples, traces, verdicts in zip(*stages, strict=True):
            table = _joined(examples, filtered_batches(traces, verdicts, _LEFT_OUT), made_by, schema, names)
            written.by_source.update(zip(*(table[c].to_pylist() for c in ("source", "teacher")), strict=True))
            kinds = examples.column("kind")
            written.chats += kinds.count("chat")
            pairs = zip(examples.column("split"), kinds, strict=True)
            splits = [split for split, kind in pairs if kind != "chat"]
            for part in (train, rest):
                part.write(table.filter([each == part.split for each in splits]))
        written.splits.update({part.split: part.close() for part in (train, rest)})
    if with_traces:
        written.traces = _write_traces(run, folder / "traces", made_by, kind, names)
    return written


def _made_by(run: Run) -> dict[str, str]:
    manifest = run.output("select").manifest()
    assert manifest is not None, "examples are complete"
    return {"run": run.path.name, "recipe": manifest.identity}


def _joined(
    examples: Shard,
    traces: Iterable[pa.RecordBatch],
    made_by: dict[str, str],
    schema: pa.Schema,
    names: Mapping[str, str],
) -> pa.Table:
    """Returns the rows of one shard, in the order of its examples."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen = pa.Table.from_batches(examples.batches(), arrow_schema(examples.row))
    chosen = chosen.filter(pc.not_equal(chosen["kind"], "chat"))
    if not len(chosen):
        return schema.empty_table()
    wanted = chosen["id"].combine_chunks()
    batches = (batch.filter(pc.is_in(batch["id"], wanted)) for batch in traces)
    trace = pa.Table.from_batches(batch for batch in batches if len(batch))
    trace = trace.take(pc.index_in(wanted, trace["id"].combine_chunks()))
    columns = {name: chosen[name] for name in chosen.column_names} | {name: trace[name] for name in _OF_TRACE}
    columns |= {
        "filters": _filters(trace["verdicts"]),
        "teacher": _public(chosen["teacher"], names.__getitem__),
    }
    return _table(columns, made_by, schema)


def _table(columns: dict[str, Any], made_by: dict[str, str], schema: pa.Schema) -> pa.Table:
    """A table of this schema from these columns, with the same run and recipe in every row."""
    import pyarrow as pa

    columns = columns | {name: pa.repeat(value, len(columns["id"])) for name, value in made_by.items()}
    if "columns" in schema.names:
        columns["columns"] = published_columns.typed(columns["columns"], schema.field("columns").type)
    return pa.table([columns[name] for name in schema.names], names=schema.names).cast(schema)


def _filters(verdicts: Any) -> Any:
    """The names and versions of the rules that each trace passed: some may be in `filter.ignored`."""
    import pyarrow as pa

    passed = ([v for v in each if v["outcome"] == "passed"] for each in verdicts.to_pylist())
    named = [[f"{public_rule(v['filter'])}@{v['version']}" for v in each] for each in passed]
    return pa.array(named, pa.list_(pa.string()))


def _public(names: Any, short: Callable[[str], str]) -> Any:
    """Names without folders of this machine, as `short` gives them."""
    import pyarrow as pa

    return pa.array([short(name) for name in names.to_pylist()], pa.string())


def _public_verdicts(verdicts: Any) -> Any:
    """Leaves out folders of rules, and the evidence of undecided ones: an error may name a machine."""
    import pyarrow as pa
    import pyarrow.compute as pc

    flat = verdicts.flatten()
    fields = {field.name: flat.field(field.name) for field in flat.type}
    undecided = pc.equal(fields["outcome"], "undecided")
    fields["filter"] = _public(fields["filter"], public_rule)
    fields["evidence"] = pc.if_else(undecided, pa.scalar(None, pa.string()), fields["evidence"])
    plain = pa.StructArray.from_arrays(list(fields.values()), fields=list(flat.type))
    offsets = pc.subtract(verdicts.offsets, verdicts.offsets[0])
    return pa.ListArray.from_arrays(offsets, plain, type=verdicts.type)


def _write_traces(
    run: Run, folder: Path, made_by: dict[str, str], kind: pa.DataType | None, names: Mapping[str, str]
) -> int:
    """Writes all traces with their verdicts, rejected ones too; returns their number."""
    import pyarrow as pa

    fields = [f for f in arrow_schema(Trace) if f.name not in _LEFT_OUT]
    schema = published_columns.with_columns(pa.schema(fields), kind)
    schema = pa.schema([*schema, *(pa.field(name, pa.string(), nullable=False) for name in made_by)])
    with _Parts(folder, TRAIN, schema) as parts:
        shards = (run.output(stage).shards() for stage in ("generate", "filter"))
        for traces, verdicts in zip(*shards, strict=True):
            for batch in filtered_batches(traces, verdicts, _LEFT_OUT):
                columns = {name: batch[name] for name in batch.schema.names}
                columns |= {
                    "teacher": _public(batch["teacher"], names.__getitem__),
                    "verdicts": _public_verdicts(batch["verdicts"]),
                    "reason": _public(batch["reason"], public_rule),
                }
                parts.write(_table(columns, made_by, schema))
        return parts.close()


class _Parts:
    """The files of a split. Their names hold the number of files, so they are named at the end."""

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
            self._close_file()
            self.folder.mkdir(exist_ok=True)
            self.writer = pq.ParquetWriter(self._name(self.files), self.schema, compression="zstd")
            self.files += 1
        self.writer.write_table(table)
        self.rows += len(table)
        self.bytes += table.nbytes

    def close(self) -> int:
        """Names the files; returns the number of rows."""
        self._close_file()
        for number in range(self.files):
            name = f"{self.split}-{number:05d}-of-{self.files:05d}.parquet"
            self._name(number).rename(self.folder / name)
        return self.rows

    def _name(self, number: int) -> Path:
        return self.folder / f"{self.split}-{number:05d}.part"

    def _close_file(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer, self.bytes = None, 0
