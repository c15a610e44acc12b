"""Read-only access to a run, for Python and for the command line. Opening one reads two small files.

run = open_run("data/runs/demo")
run.counts()                        # what each stage holds
run.why()                           # the funnel: kept, rejected by reason, what each rule rejects alone
run.traces.to_pandas()              # or .to_arrow(), .to_datasets(), or iterate over typed rows
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pipeline.config import Recipe
from pipeline.errors import UserError
from pipeline.funnel import Funnel, funnel
from pipeline.rows import Example, Opinion, Problem, Row, Score, Step, Trace, Verdict, arrow_schema
from pipeline.shard import Counts
from pipeline.store import Output

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa

R = TypeVar("R", bound=Row)
ROWS: dict[str, type[Row]] = {  # what the sealed shards of each stage hold
    "ingest": Problem,
    "generate": Trace,
    "filter": Trace,
    "select": Example,
    "train": Step,
    "evaluate": Score,
}
WITHIN: dict[str, type[Row]] = {
    "judge": Opinion,
    "problems": Problem,
}  # folders that lie within those of filter and evaluate
_ANSWERS = ("filter/judge", "evaluate/*/*/generate", "evaluate/*/*/filter/judge")


class TraceVerdict(Verdict):
    """A verdict beside the trace and problem that it is about."""

    trace_id: str
    problem_id: str


class Rows(Generic[R]):
    """The sealed rows of a stage, read from disk when asked for."""

    def __init__(self, row: type[R], paths: list[Path]) -> None:
        self.row = row
        self.paths = paths

    def __iter__(self) -> Iterator[R]:
        for batch in self._dataset().to_batches(batch_size=256):
            for record in batch.to_pylist():
                yield self.row.model_validate(record)

    def __len__(self) -> int:
        return int(self._dataset().count_rows())

    def __repr__(self) -> str:
        return f"<{len(self)} {self.row.__name__} rows in {len(self.paths)} shards>"

    def to_arrow(self) -> pa.Table:
        return self._dataset().to_table()

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Some fields of all rows, without reading the others."""
        return self._dataset().to_table(columns=list(names))

    def to_pandas(self) -> pd.DataFrame:
        return self.to_arrow().to_pandas()

    def to_datasets(self) -> datasets.Dataset:
        import datasets

        return datasets.Dataset(self.to_arrow())

    def where(self, field: str, value: Any, count: int) -> list[R]:
        """The first `count` rows with this value in a field."""
        import pyarrow.compute as pc

        table = self._dataset().head(count, filter=pc.field(field) == value, batch_size=1024)
        return [self.row.model_validate(record) for record in table.to_pylist()]

    def _dataset(self) -> Any:
        import pyarrow.dataset as ds

        return ds.dataset([str(p) for p in self.paths], schema=arrow_schema(self.row), format="parquet")


class Run:
    """A run's folder. `problems`, `traces`, `examples`, `scores` are the rows that people ask for most."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = Recipe.model_validate_json((path / "recipe.json").read_bytes())

    def output(self, stage: str) -> Output:
        return Output(self.path / stage, (ROWS | WITHIN)[stage.rpartition("/")[2]])

    def rows(self, stage: str) -> Rows[Any]:
        """Rows of a stage by name; also the answers of one model, by "evaluate/held_out/student/filter".

        "filter/judge" holds what a judge model says of free-text answers, where one was asked.
        """
        output = self.output(stage)
        return Rows(output.row, [shard.path for shard in output.shards() if shard.sealed])

    @property
    def problems(self) -> Rows[Problem]:
        return self.rows("ingest")

    @property
    def traces(self) -> Rows[Trace]:
        """Traces with their verdicts; before they were filtered, without."""
        return self.rows("filter" if self.output("filter").complete else "generate")

    @property
    def examples(self) -> Rows[Example]:
        return self.rows("select")

    @property
    def scores(self) -> Rows[Score]:
        return self.rows("evaluate")

    def verdicts(self) -> Iterator[TraceVerdict]:
        """Every verdict on every trace."""
        for trace in self.traces:
            for verdict in trace.verdicts:
                yield TraceVerdict(trace_id=trace.id, problem_id=trace.problem_id, **verdict.model_dump())

    def counts(self) -> dict[str, Counts]:
        """What each stage holds now, read from its folder."""
        return {stage: self.output(stage).counts() for stage in (*ROWS, *self.answers())}

    def answers(self) -> list[str]:
        """Where beside `generate` it is kept what a model answered: judges, and the models compared."""
        found = (p for pattern in _ANSWERS for p in self.path.glob(pattern))
        return sorted(str(p.relative_to(self.path)) for p in found)

    def judged(self) -> str:
        """The stage whose judged traces people mean: filter; of a model evaluated alone, its answers."""
        found = sorted(self.path.glob("evaluate/*/*/filter"))
        alone = bool(found) and not (self.path / "generate").exists()
        return str(found[0].relative_to(self.path)) if alone else "filter"

    def why(self, stage: str = "filter") -> Funnel:
        """Where the traces went: kept, rejected and undecided by reason, and what each rule rejects alone."""
        return funnel(self.rows(stage).paths)

    def examples_of(self, reason: str, count: int, stage: str = "filter") -> list[Trace]:
        """The first traces that were decided by this "rule: reason"."""
        return self.rows(stage).where("reason", reason, count)

    def report(self, stage: str) -> dict[str, Any]:
        """What a complete stage said of its work; {} before."""
        manifest = self.output(stage).manifest()
        return manifest.report if manifest else {}

    def events(self) -> list[dict[str, Any]]:
        """Every try of every stage: when it ended, how long it took, its exit code."""
        path = self.path / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def open_run(path: str | Path) -> Run:
    """Open a run's folder. Raises UserError when there is none."""
    path = Path(path)
    if not (path / "recipe.json").exists():
        near = sorted(p.parent.name for p in path.parent.glob("*/recipe.json"))
        raise UserError(f"{path}: no run there" + (f"; runs beside it: {', '.join(near)}" if near else ""))
    try:
        return Run(path)
    except ValueError as e:
        raise UserError(f"{path}/recipe.json is not of this version: {str(e).splitlines()[0]}") from None
