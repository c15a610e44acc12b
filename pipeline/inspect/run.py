"""Read-only access to a run, from Python and for the command line. Opening one reads one small file.

>>> run = open_run("demo")  # its name in data/runs, or a folder
>>> run
<run demo in data/runs/demo: ingest, generate, filter, select, evaluate complete>
>>> run.why().rejected  # the funnel: kept, rejected by reason, what each rule rejects alone
{'correct: incorrect': 24}
>>> len(run.traces.where(source="sums"))  # also problems, verdicts, trace_scores, examples, scores
27
>>> run.sample(2, rejected_by="correct", seed=1)  # some traces to read; in a notebook as a table
<2 rows of Trace in 3 shards: question, ...>
>>> run.problem("0000000100000002").problem.reference  # with all its traces, those of evaluate too
'3'
>>> run.sql("select source, count(*) from traces group by 1 order by 1").fetchall()  # by DuckDB
[('others', 9), ('sums', 27)]
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Recipe
from pipeline.config.evaluate import HELD_OUT
from pipeline.engine import checksums, layout, previous
from pipeline.engine.layout import ROWS, OutputPath
from pipeline.engine.query import Part
from pipeline.engine.run_records import read_events
from pipeline.engine.shard import Counts, Shard
from pipeline.engine.store import Output
from pipeline.errors import UserError, nearest
from pipeline.filter.funnel import Funnel, funnel
from pipeline.inspect.problem_traces import ProblemTraces
from pipeline.inspect.table import RowTable, Verdicts
from pipeline.model_rows import Score
from pipeline.rows import Example, Problem, Trace, TraceScore, TraceVerdicts

if TYPE_CHECKING:
    import duckdb

RUNS = Path("data/runs")  # of the current folder


class Run:
    """A run's folder. problems, traces, verdicts, trace_scores, examples, scores: lazy tables of its rows."""

    def __init__(self, path: Path, before: bool = False) -> None:
        """before: of stages that the last change made run again, the result before is read."""
        self.path, self._before = path, before
        self._results = previous.results_before(path) if before else {}
        self.recipe = Recipe.model_validate_json(checksums.read(path / "recipe.json"))

    @property
    def name(self) -> str:
        return f"{self.path.name} before" if self._before else self.path.name

    @property
    def stages(self) -> tuple[str, ...]:
        """The names of the stages that commands run; score and compress only where the recipe has them.

        The run of a chain's own name has only the problems of its steps.
        """
        if self.recipe.chain:
            return ("ingest",)
        unused = {"score"} if self.recipe.score is None else set()
        unused |= set() if self.recipe.compress.schemes else {"compress"}
        return tuple(name for name in ROWS if name not in unused)

    def output(self, stage: str) -> Output:
        """The folder of a stage by name. Raises UserError for a name that no stage has."""
        now = Output(self.path / stage, layout.parse(stage).row)
        whole = self._results.get(stage.partition("/")[0])
        if whole is None or whole.folder == self.path / stage.partition("/")[0]:
            return now
        return whole if "/" not in stage else [*previous.earlier_outputs(self.path, stage, now.row), now][0]

    def before(self) -> Run:
        """The run as it was before its stages ran again. Raises UserError if none did."""
        if not any(previous.earlier_outputs(self.path, stage, row) for stage, row in ROWS.items()):
            raise UserError(f"{self.path}: no stage has run again, so there is nothing to compare with")
        return Run(self.path, before=True)

    def begun(self, kind: str) -> list[OutputPath]:
        """The outputs of this kind inside evaluate: "problems", "generate", "filter", "judge"."""
        return [path for path in layout.begun(self.path) if path.kind == kind and path.set]

    def rows(self, stage: str) -> RowTable[Any]:
        """The rows of a stage by name, those of open shards too; of a filter stage, its filtered traces.

        "evaluate/held_out/student/filter" holds the graded answers of one model, "filter/judge" the verdicts
        of the LLM judge on free-text answers.
        """
        output = self.output(stage)
        if output.row is TraceVerdicts:
            traces = self.traces_of(stage)
            return replace(traces, parts=[part for part in traces.parts if part.verdicts])
        return RowTable(output.row, [Part(shard) for shard in _readable(output)])

    def traces_of(self, stage: str) -> RowTable[Trace]:
        """All traces that a filter stage reads: with their verdicts, or unfiltered."""
        verdicts = {shard.name: shard.path for shard in _readable(self.output(stage)) if shard.sealed}
        shards = _readable(self.output(stage.removesuffix("filter") + "generate"))
        return RowTable(Trace, [Part(shard, verdicts.get(shard.name)) for shard in shards])

    @property
    def problems(self) -> RowTable[Problem]:
        return self.rows("ingest")

    @property
    def traces(self) -> RowTable[Trace]:
        """All traces, with their verdicts as soon as their shard is filtered."""
        return self.traces_of("filter")

    @property
    def examples(self) -> RowTable[Example]:
        return self.rows("select")

    @property
    def scores(self) -> RowTable[Score]:
        return self.rows("evaluate")

    @property
    def trace_scores(self) -> RowTable[TraceScore]:
        """How the student reads each kept trace, with a table [score]."""
        return self.rows("score")

    @property
    def verdicts(self) -> Verdicts:
        """Every verdict on every trace, with the ids of the trace and its problem."""
        return Verdicts(parts=self.traces.parts)

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """A SELECT over the run's tables; .df() gives pandas. See sql.py."""
        from pipeline.inspect import sql

        tables: dict[str, RowTable[Any]] = {"problems": self.problems, "traces": self.traces}
        tables |= {"trace_scores": self.trace_scores, "examples": self.examples, "scores": self.scores}
        return sql.query(tables, query)

    def sample(
        self, n: int = 5, seed: int = 0, *, rejected_by: str | None = None, **values: Any
    ) -> RowTable[Trace]:
        """`n` traces sampled uniformly, as a table; the same ones for the same seed.

        rejected_by: the rule that decided ("repetition" or "no_repetition"), its reason code, or both as the
        funnel writes them ("correct: incorrect"). values: of fields, as in source="gsm8k".
        """
        rows = self.traces.where(**values)
        if rejected_by is not None:
            rows = rows.where(outcome="rejected", reason=self.reasons(rejected_by))
        return rows.sample(n, seed)

    def problem(self, id: str) -> ProblemTraces:
        """A problem with all its traces, filtered if they have been. Raises UserError for an unknown id."""
        for problems in (OutputPath("ingest"), *self.begun("problems")):
            found = self.rows(str(problems)).where(id=id).located()
            if found.parts:
                traces = self._traces_of(id, found.parts[0].shard.name, problems.set)
                return ProblemTraces(problem=found.head(1)[0], traces=traces)
        raise UserError(f"{self.path}: no problem has the id {id!r}")

    def _traces_of(self, id: str, shard: str, set_name: str) -> dict[str, tuple[Trace, ...]]:
        """Stage -> traces of a problem. Their shard has the same name as the problem's."""
        found = {}
        for generate in (OutputPath("generate"), *self.begun("generate")):
            if generate.set == set_name or (not set_name and generate.set == HELD_OUT):
                filtered = generate.sibling("filter")
                table = self.traces_of(str(filtered))
                parts = [part for part in table.parts if part.shard.name == shard]
                if traces := tuple(replace(table, parts=parts).where(problem_id=id)):
                    found[str(filtered if parts[0].verdicts else generate)] = traces
        return found

    def reasons(self, name: str, stage: str = "filter") -> list[str]:
        """The reasons ("rule: code") with this rule or code. Raises UserError when there is none."""
        decided = "select reason from rows where reason <> '' group by reason order by count(*) desc, reason"
        known = [reason for (reason,) in self.rows(stage).query(("reason",), decided)]
        found = [why for why in known if name in (why, *why.split(": ", 1)) or why.startswith(f"no_{name}: ")]
        if not found:
            raise UserError(f"{self.path}: no trace was decided by {name!r}" + nearest(name, known))
        return found

    def state(self, stage: str) -> str:
        """Returns running, complete, partial, outdated, unfinished or not started.

        Partial is one that was sealed with --partial, or made from one; outdated, one whose inputs changed.
        """
        output = self.output(stage)
        if output.busy:
            return "running"
        manifest = output.manifest()
        if output.complete:
            outdated = not self._before and previous.is_outdated(output, self.path)
            return "partial" if manifest and manifest.partial else "outdated" if outdated else "complete"
        return "not started" if manifest is None else "unfinished"

    def partial(self, stage: str) -> dict[str, int]:
        """Stage -> the rows that it lacked when this stage was made with --partial; {} for a whole stage."""
        manifest = self.output(stage).manifest()
        return manifest.partial if manifest else {}

    def counts(self) -> dict[str, Counts]:
        """Rows, failures and shards of each stage, read from its folder now."""
        return {stage: self.output(stage).counts() for stage in (*self.stages, *self.answer_stages())}

    def check_begun(self, stage: str) -> None:
        """Raises UserError, naming similar stages, when a stage inside another one was never begun."""
        if "/" in stage and not (self.path / stage).is_dir():
            known = nearest(stage, map(str, layout.begun(self.path)))
            raise UserError(f"{self.path}: there is no {stage!r}{known}")

    def so_far(self) -> str | None:
        """How many traces there are while generate is unfinished; None before and after."""
        traces = self.rows("generate")
        if not traces.parts or self.output("generate").complete:
            return None
        sealed, opened = (
            replace(traces, parts=[part for part in traces.parts if part.shard.sealed is state])
            for state in (True, False)
        )
        done, rest = len(sealed), len(opened)
        return (
            f"{done + rest:,} traces so far: {done:,} in {len(sealed.parts)} sealed shards and {rest:,} in "
            f"{len(opened.parts)} that are open"
        )

    def answer_stages(self) -> list[str]:
        """The stages other than `generate` that asked a model: LLM judges, models in evaluate and score."""
        begun = layout.begun(self.path)
        asked = ("judge", "greedy", "attempts", "labels")
        return [str(path) for path in begun if path.kind in asked or (path.kind == "generate" and path.set)]

    def filtered_stage(self) -> str:
        """The default stage of `why` and `show`: filter; for a model evaluated without a run, its answers."""
        found = self.begun("filter")
        return str(found[0]) if found and not (self.path / "generate").exists() else "filter"

    def why(self, stage: str = "filter") -> Funnel:
        """The funnel: traces kept, rejected and undecided by reason, and what each rule rejects alone."""
        counted = funnel(self.output(stage).sealed_paths())
        return counted.model_copy(update={"suspects": self.report(stage).get("suspects")})

    def report(self, stage: str) -> dict[str, Any]:
        """The report of a complete stage; {} before."""
        manifest = self.output(stage).manifest()
        return manifest.report if manifest else {}

    def events(self) -> list[dict[str, Any]]:
        """Every attempt at every stage: its end, seconds, exit code, rows and failures."""
        return read_events(self.path)

    def seconds(self) -> Counter[str]:
        """Stage -> seconds over all attempts that have ended."""
        seconds: Counter[str] = Counter()
        for event in self.events():
            seconds[event["stage"]] += event["seconds"]
        return seconds

    def __repr__(self) -> str:
        complete = [stage for stage in self.stages if self.output(stage).complete]
        return f"<run {self.path.name} in {self.path}: {', '.join(complete) or 'nothing'} complete>"

    def _repr_html_(self) -> str:
        from pipeline.inspect import notebook

        rows = [
            (stage, self.state(stage), f"{n.rows:,}", f"{n.failed:,}", f"{n.sealed}/{n.shards}")
            for stage, n in self.counts().items()
        ]
        names = ("stage", "state", "rows", "failed", "shards sealed")
        return notebook.table(f"run {self.path.name}", names, rows)


def _readable(output: Output) -> list[Shard]:
    """The shards of a stage. Raises UserError if a complete stage lacks one."""
    output.sealed_paths()
    return output.shards()


def open_run(path: str | Path) -> Run:
    """Opens a run by its folder, or by its name in data/runs. Raises UserError when there is none.

    >>> open_run("dmeo")
    Traceback (most recent call last):
    filters.errors.UserError: data/runs/dmeo: no run there; runs in that folder: demo
    """
    path = Path(path)
    if path.name == str(path) and not path.exists():
        path = RUNS / path
    if not (path / "recipe.json").exists():
        near = sorted(p.parent.name for p in path.parent.glob("*/recipe.json"))
        raise UserError(
            f"{path}: no run there" + (f"; runs in that folder: {', '.join(near)}" if near else "")
        )
    try:
        return Run(path)
    except ValueError as e:
        raise UserError(f"{path}/recipe.json is not of this version: {str(e).splitlines()[0]}") from None
