"""Read-only access to a run, for Python and for the command line. Opening one reads one small file.

run = open_run("data/runs/demo")
run.counts()                        # what each stage holds
run.why()                           # the funnel: kept, rejected by reason, what each rule rejects alone
run.traces.where(source="words").to_pandas()  # also problems, verdicts, examples, scores: see table.py
run.sample(5, rejected_by="repetition")       # some traces to read; in a notebook as a table
run.problem(id)                     # a problem with every trace of it, the evaluation's too
run.sql("select source, count(*) from traces group by 1")  # by DuckDB, over the Parquet files
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Recipe
from pipeline.engine.shard import Counts
from pipeline.engine.store import Output
from pipeline.errors import UserError, nearest
from pipeline.filter.funnel import Funnel, funnel
from pipeline.inspect.table import Rows, Verdicts
from pipeline.rows import Example, JudgeVerdict, Problem, Row, Score, Step, Trace

if TYPE_CHECKING:
    import duckdb

ROWS: dict[str, type[Row]] = {  # what the sealed shards of each stage hold
    "ingest": Problem,
    "generate": Trace,
    "filter": Trace,
    "select": Example,
    "train": Step,
    "evaluate": Score,
}
WITHIN: dict[str, type[Row]] = {
    "judge": JudgeVerdict,
    "problems": Problem,
}  # within those of filter and evaluate
_ANSWERS = ("filter/judge", "evaluate/*/*/generate", "evaluate/*/*/filter/judge")


class Event(Row):
    """A try of a stage that has ended."""

    stage: str
    ended: str
    seconds: float
    exit_code: int
    rows: int
    failed: int


class Answered(Row):
    """A problem and its traces by the stage that holds them: "filter", "evaluate/held_out/student/filter"."""

    problem: Problem
    traces: dict[str, tuple[Trace, ...]]

    def _repr_html_(self) -> str:
        from pipeline.inspect import notebook

        return notebook.problem(self)


class Run:
    """A run's folder. problems, traces, verdicts, examples and scores are lazy tables of its rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = Recipe.model_validate_json((path / "recipe.json").read_bytes())

    def output(self, stage: str) -> Output:
        parts = stage.split("/")
        if parts[-1] not in ROWS | WITHIN or not {"", ".", ".."}.isdisjoint(parts):
            raise UserError(f"no stage {stage!r}; stages: {', '.join(ROWS)}")
        return Output(self.path / stage, (ROWS | WITHIN)[parts[-1]])

    def rows(self, stage: str) -> Rows[Any]:
        """Rows of a stage by name; also the answers of one model, by "evaluate/held_out/student/filter".

        "filter/judge" holds what a judge model says of free-text answers, where one was asked.
        """
        output = self.output(stage)
        return Rows(output.row, output.sealed_paths())

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

    @property
    def verdicts(self) -> Verdicts:
        """Every verdict on every trace, each with the ids of its trace and problem."""
        return Verdicts(paths=self.traces.paths)

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """A SELECT over problems, traces, verdicts, examples and scores; .df() gives pandas. See sql.py."""
        from pipeline.inspect import sql

        tables: dict[str, Rows[Any]] = {"problems": self.problems, "traces": self.traces}
        return sql.query(tables | {"examples": self.examples, "scores": self.scores}, query)

    def sample(
        self, n: int = 5, seed: int = 0, *, rejected_by: str | None = None, **values: Any
    ) -> Rows[Trace]:
        """Traces to read, as a table: `n` drawn evenly, the same ones for the same seed.

        `rejected_by` is the rule that decided ("repetition" or "no_repetition"), a code of one, or both as
        the funnel writes them ("correct: wrong"). Others are values of fields: source="gsm8k".
        """
        rows = self.traces.where(**values)
        if rejected_by is not None:
            rows = rows.where(outcome="rejected", reason=self.reasons(rejected_by))
        return rows.sample(n, seed)

    def problem(self, id: str) -> Answered:
        """A problem with all its traces, judged where they were. Raises UserError where there is none."""
        sets = sorted(str(p.relative_to(self.path)) for p in self.path.glob("evaluate/*/problems"))
        for stage in ("ingest", *sets):
            found = self.rows(stage).where(id=id).located()
            if found.paths:
                within = "" if stage == "ingest" else stage.removesuffix("problems")
                return Answered(
                    problem=found.head(1)[0], traces=self._traces_of(id, found.paths[0].name, within)
                )
        raise UserError(f"{self.path}: no problem has the id {id!r}")

    def _traces_of(self, id: str, shard: str, within: str) -> dict[str, tuple[Trace, ...]]:
        """Traces of a problem by stage; they lie in shards of the same name as the problem's."""
        found = {}
        for path in sorted(self.path.glob(f"{within}**/generate")):
            judged = path.with_name("filter")
            given = next((p / shard for p in (judged, path) if (p / shard).exists()), None)
            if given is not None:
                rows = Rows(Trace, [given]).where(problem_id=id).located()
                found[str(given.parent.relative_to(self.path))] = tuple(rows)
        return {stage: traces for stage, traces in found.items() if traces}

    def reasons(self, name: str, stage: str = "filter") -> list[str]:
        """The reasons, as "rule: code", that name this rule or this code. UserError where none does."""
        report = self.report(stage)
        known = [*report.get("rejected", {}), *report.get("undecided", {})]
        found = [why for why in known if name in (why, *why.split(": ", 1)) or why.startswith(f"no_{name}: ")]
        if not found:
            raise UserError(f"{self.path}: no trace was decided by {name!r}" + nearest(name, known))
        return found

    def state(self, stage: str) -> str:
        """running, complete, unfinished or not started."""
        output = self.output(stage)
        if output.busy:
            return "running"
        if output.complete:
            return "complete"
        return "not started" if output.manifest() is None else "unfinished"

    def counts(self) -> dict[str, Counts]:
        """What each stage holds now, read from its folder."""
        return {stage: self.output(stage).counts() for stage in (*ROWS, *self.answers())}

    def check_begun(self, stage: str) -> None:
        """Raise UserError where no such answers were ever begun, naming what there is."""
        if "/" in stage and not (self.path / stage).is_dir():
            found = (p.parent for p in self.path.glob("**/manifest.json"))
            known = nearest(stage, (str(p.relative_to(self.path)) for p in found))
            raise UserError(f"{self.path}: there is no {stage!r}{known}")

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
        return self.rows(stage).where(reason=reason).head(count)

    def report(self, stage: str) -> dict[str, Any]:
        """What a complete stage said of its work; {} before."""
        manifest = self.output(stage).manifest()
        return manifest.report if manifest else {}

    def events(self) -> list[dict[str, Any]]:
        """Every try of every stage: when it ended, how long it took, its exit code."""
        path, events = self.path / "events.jsonl", []
        for line in path.read_bytes().splitlines() if path.exists() else ():
            with suppress(ValueError):  # a line may be torn
                events.append(Event.model_validate_json(line).model_dump())
        return events

    def seconds(self) -> Counter[str]:
        """Stage -> seconds over all tries that have ended."""
        seconds: Counter[str] = Counter()
        for event in self.events():
            seconds[event["stage"]] += event["seconds"]
        return seconds

    def __repr__(self) -> str:
        complete = [stage for stage in ROWS if self.output(stage).complete]
        return f"<run {self.path.name} in {self.path}: {', '.join(complete) or 'nothing'} complete>"

    def _repr_html_(self) -> str:
        from pipeline.inspect import notebook

        return notebook.run(self)


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
