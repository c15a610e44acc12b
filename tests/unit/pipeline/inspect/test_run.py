"""A run read in Python: lazy tables, samples, problems, SQL, notebooks."""

import doctest
import json
from collections import Counter
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

import pipeline.inspect.run
import pipeline.inspect.table
import pipeline.run_stages
from pipeline import open_run
from pipeline.config.load import parse_recipe
from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.inspect import show
from pipeline.inspect.run import Run
from pipeline.inspect.score_table import sampling_of
from pipeline.model_rows import Score
from tests.small_run import HOSTILE, PROBLEMS, RECIPE, SAMPLES, SHARDS, write_run

TRACES = SHARDS * PROBLEMS * SAMPLES


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("runs") / "small")


def test_opening_a_run_reads_no_shard(tmp_path: Path) -> None:
    write_run(tmp_path / "small")
    for path in (tmp_path / "small").rglob("*.parquet"):
        path.write_bytes(b"whoever reads this fails")
    run = open_run(tmp_path / "small")
    tables = (run.problems, run.traces, run.verdicts, run.examples, run.scores)
    assert [len(table.parts) for table in tables] == [SHARDS, SHARDS, SHARDS, SHARDS, 1]
    assert "evaluate complete" in repr(run)
    run.traces.where(outcome="kept")
    with pytest.raises(Exception, match=r"(?i)parquet"):
        len(run.traces)


def test_tables_are_counted_iterated_and_converted(run: Run) -> None:
    assert len(run.traces) == TRACES == len(list(run.traces)) == run.traces.to_arrow().num_rows
    assert len(run.problems.to_pandas()) == SHARDS * PROBLEMS
    assert run.examples.columns(["id", "tokens"]).column_names == ["id", "tokens"]
    splits = run.examples.to_datasets()
    assert sum(splits.num_rows.values()) == len(run.examples) == SHARDS * PROBLEMS
    assert all(set(rows["split"]) == {name} for name, rows in splits.items())
    assert {score.model_role for score in run.scores} == {"teacher"}
    assert f"{TRACES} rows of Trace in 3 shards" in repr(run.traces)


def test_a_run_is_opened_by_its_name_in_data_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "data" / "runs" / "named")
    monkeypatch.chdir(tmp_path)
    assert open_run("named").name == "named"
    with pytest.raises(UserError, match="data/runs/nome: no run there; runs in that folder: named"):
        open_run("nome")


def test_a_stage_whose_input_has_changed_is_outdated(tmp_path: Path) -> None:
    run = write_run(tmp_path / "small")
    output, sampled = run.output("filter"), run.output("generate").manifest()
    assert sampled is not None
    found = output.manifest()
    assert found is not None
    output.save(found.model_copy(update={"inputs": {"generate": sampled.content_id}}))
    assert run.state("filter") == "complete"
    grown = sampled.model_copy(update={"settings": sampled.settings | {"samples": SAMPLES + 1}})
    run.output("generate").save(grown)
    assert (run.state("generate"), run.state("filter")) == ("complete", "outdated")


def test_the_public_names_are_listed_before_they_are_loaded() -> None:
    assert {"open_run", "run_recipe", "run_stage", "Run", "Trace"} <= set(dir(pipeline))


TRACES_TOML = """
run = "given"
[ingest]
held_out = 0.0
[[ingest.sources]]
kind = "traces"
path = "traces.jsonl"
teacher = "a model"
response = "response"
"""


@pytest.mark.parametrize(
    "module", [pipeline, pipeline.inspect.run, pipeline.inspect.table, pipeline.run_stages]
)
def test_the_examples_of_the_docstrings_hold(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("data/runs/demo"))
    answers = ("2", "2", "3", "2")
    traces = [
        {"question": "1 + 1?", "answer": "2", "response": f"<think>{i}</think> It is {answer}."}
        for i, answer in enumerate(answers)
    ]
    Path("traces.jsonl").write_text("".join(json.dumps(trace) + "\n" for trace in traces))
    Path("traces.toml").write_text(TRACES_TOML)
    outcome = doctest.testmod(module, extraglobs={"pipeline": pipeline}, optionflags=doctest.ELLIPSIS)
    assert outcome.attempted > 1
    assert outcome.failed == 0


def test_the_largest_rows_come_first(run: Run) -> None:
    found = run.traces.where(source="others").top(4, "sample")
    assert [trace.sample for trace in found] == [2, 2, 2, 1]
    assert {trace.source for trace in found} == {"others"}
    assert [trace.sample for trace in run.traces.top(2, "sample", smallest=True)] == [0, 0]


def test_where_takes_values_lists_none_and_conditions_of_sql(run: Run) -> None:
    assert len(run.traces.where(outcome="kept", source="others")) == SHARDS
    assert len(run.traces.where(sample=[0, 2])) == TRACES * 2 // SAMPLES
    assert len(run.traces.where(sample=[])) == 0 == len(run.traces.where(source=set()))
    assert len(run.traces.where(error=[None, "x"], sample=0)) == TRACES // SAMPLES
    assert len(run.traces.where(error=None)) == TRACES
    long = run.traces.where("completion_tokens > 101")
    assert {t.sample for t in long} == {2}
    assert len(long.where(outcome="rejected")) == TRACES // SAMPLES


def test_where_reads_the_columns_of_the_source(run: Run) -> None:
    per_level = SHARDS * SAMPLES
    assert len(run.traces.where(columns={"level": 1})) == per_level
    assert len(run.traces.where(columns={"level": [0, "3"], "note": HOSTILE})) == 2 * per_level
    assert len(run.traces.where(columns={"shard": "part/1"}, outcome="kept")) == PROBLEMS
    assert len(run.traces.where(columns={"sha/rd": None})) == TRACES
    assert len(run.traces.where("columns->>'level' = '1'")) == per_level
    assert len(run.problems.where("(columns->>'level')::int > 1", columns={"level": 2})) == SHARDS
    assert run.sql("select count(*) from problems where columns->>'level' = '2'").fetchall() == [(SHARDS,)]
    with pytest.raises(UserError, match="Score has no field 'columns'"):
        run.scores.where(columns={"level": 1})


def test_show_takes_conditions(run: Run) -> None:
    shown = show.first(run, "filter", None, None, None, 50, ("columns->>'level' = '1'", "sample = 0"))
    assert len(shown.rows) == SHARDS
    with pytest.raises(UserError, match=r"no field 'no_such_field'"):
        show.first(run, "filter", None, None, None, 5, ("no_such_field = 1",))


def test_a_condition_is_one_expression_over_the_fields(run: Run) -> None:
    failed = "len(list_filter(verdicts, lambda v: v.outcome = 'failed')) = 1 -- as a comment"
    assert len(run.traces.where(failed, "sampling.temperature > 0.5")) == TRACES * 2 // SAMPLES
    assert len(run.verdicts.where("filter = 'correct' and evidence is not null")) == TRACES
    for condition, told in {
        "sorce = 'sums'": "no field 'sorce'; did you mean 'source'",
        "id in (select id from traces)": "a query of its own",
        "true) or (true": "where: ",
        "sample, seed": "where: ",
        "true; select 1": "where: ",
        "sum(sample) > 1": "where: ",
        "": "where: ",
        "sample = $x": "where: ",
        "reason::int = 1": "cannot be read",
    }.items():
        with pytest.raises(UserError, match=told) as error:
            list(run.traces.where(condition))
        assert "\n" not in str(error.value)


def test_rows_keep_their_order_whatever_is_read_of_them(run: Run) -> None:
    ids = [id for part in run.traces.parts for id in part.shard.column("id")]
    assert [t.id for t in run.traces] == ids == run.traces.columns(["id"])["id"].to_pylist()
    kept = [t.id for t in run.traces if t.outcome == "kept"]
    assert (
        [t.id for t in run.traces.where(outcome="kept")] == kept == [t.id for t in run.traces if t.id in kept]
    )


def test_traces_that_are_not_filtered_yet_are_read_without_verdicts(tmp_path: Path) -> None:
    run = write_run(tmp_path / "small")
    output = run.output("filter")
    (output.folder / "manifest.json").unlink()
    output.shards()[0].path.unlink()
    assert Counter(t.outcome for t in run.traces)["unfiltered"] == TRACES // SHARDS
    assert len(run.traces) == TRACES
    assert len(run.rows("filter")) == TRACES - TRACES // SHARDS
    assert len(run.traces.where(outcome="unfiltered")) == TRACES // SHARDS


def test_verdicts_are_a_table_of_their_own(run: Run) -> None:
    assert len(run.verdicts) == 2 * TRACES == len(list(run.verdicts))
    wrong = run.verdicts.where(outcome="failed")
    assert Counter((v.filter, v.reason) for v in wrong) == {("correct", "incorrect"): TRACES * 2 // SAMPLES}
    assert len(wrong) == run.why().rules["correct"].failed
    ids = {t.id: t.problem_id for t in run.traces}
    assert all(ids[v.trace_id] == v.problem_id for v in wrong)
    assert run.verdicts.to_arrow().num_rows == 2 * TRACES


def test_a_sample_depends_on_the_seed_and_matches_the_conditions(run: Run) -> None:
    sampled = run.sample(5, seed=3, rejected_by="correct")
    assert [t.id for t in sampled] == [t.id for t in run.sample(5, seed=3, rejected_by="incorrect")]
    assert [t.reason for t in sampled] == ["correct: incorrect"] * 5
    assert {t.id for t in run.sample(5, seed=4, rejected_by="correct")} != {t.id for t in sampled}
    assert len(run.sample(1000, outcome="kept", source="others")) == SHARDS
    assert len(run.sample(3, source="nowhere")) == 0
    seen = Counter(t.id for seed in range(60) for t in run.sample(6, seed))
    assert len(seen) == TRACES  # each one is sampled sometimes


def test_a_sample_reads_only_the_shards_that_hold_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "small")
    chosen = run.sample(2, seed=1).columns(["id"])["id"].to_pylist()
    for part in run.traces.parts:
        if not set(chosen) & set(part.shard.column("id")):
            _damage(part.shard.path, "response")
    assert [t.id for t in run.sample(2, seed=1)] == chosen
    with pytest.raises(UserError, match="checksum of column 'response'"):
        list(run.traces)


def _damage(path: Path, column: str) -> None:
    group = pq.read_metadata(path).row_group(0)
    (chunk,) = (c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    with path.open("rb+") as file:
        file.seek(chunk.data_page_offset + chunk.total_compressed_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def test_a_problem_comes_with_all_its_traces(run: Run) -> None:
    problem = run.problems.head(1)[0]
    answered = run.problem(problem.id)
    assert answered.problem == problem
    assert {stage: len(traces) for stage, traces in answered.traces.items()} == {"filter": SAMPLES}
    assert all(trace.verdicts for trace in answered.traces["filter"])


def test_sql_reads_the_five_tables(run: Run) -> None:
    by_source = run.sql("select source, count(*) from traces group by 1 order by 1").fetchall()
    assert by_source == [("others", SHARDS * SAMPLES), ("sums", SHARDS * SAMPLES * (PROBLEMS - 1))]
    joined = "select count(*) from verdicts v join traces t on v.trace_id = t.id where v.outcome = 'failed'"
    assert run.sql(joined).fetchall() == [(TRACES * 2 // SAMPLES,)]
    for table in ("problems", "examples", "scores"):
        assert run.sql(f"select count(*) from {table}").fetchall() == [(SHARDS * PROBLEMS,)]


@pytest.mark.parametrize(
    "query",
    [
        "select * from read_text('/etc/hostname')",
        "select * from '/etc/hostname'",
        "copy traces to 'out.parquet'",
        "drop view traces",
        "select 1; select 2",
        "set enable_external_access = true",
        "select nothing from traces",
        "",
    ],
)
def test_sql_only_reads_and_only_the_run(run: Run, query: str) -> None:
    with pytest.raises(UserError) as error:
        run.sql(query)
    assert len(str(error.value).splitlines()) == 1


def test_sql_of_an_empty_run_finds_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_bytes((run.path / "recipe.json").read_bytes())
    empty = open_run(tmp_path)
    assert empty.sql("select count(*) from traces, verdicts").fetchall() == [(0,)]
    assert len(empty.traces) == len(empty.verdicts) == len(empty.sample(3)) == 0
    assert "0 rows" in empty.traces._repr_html_()


def test_mistakes_are_reported_in_one_line(run: Run) -> None:
    with pytest.raises(UserError, match=r"no field 'sourc'; did you mean 'source'"):
        run.traces.where(sourc="sums")
    with pytest.raises(UserError, match=r"outcome = 'keptt': did you mean 'kept'\?"):
        run.traces.where(outcome="keptt")
    with pytest.raises(UserError, match="seed = 'x'"):
        run.traces.where(seed=[1, "x"])
    with pytest.raises(UserError, match="fields of its own"):
        run.traces.where(sampling="x")
    with pytest.raises(UserError, match="did you mean 'id'"):
        run.traces.columns(["ids"])
    with pytest.raises(UserError, match="no trace was decided by 'corect'"):
        run.sample(rejected_by="corect")
    with pytest.raises(UserError, match="no problem has the id"):
        run.problem("0")


def test_settings_that_evaluate_does_not_send_are_shown_as_the_servers(tmp_path: Path) -> None:
    omitting = {"run": "small", "teacher": RECIPE["teacher"] | {"omit": ["temperature"]}}
    (tmp_path / "recipe.json").write_text(parse_recipe(RECIPE | omitting, (), "here").model_dump_json())
    run = open_run(tmp_path)
    assert sampling_of(run)["temperature"] == "server's own"
    models = {"held_out/teacher": {"omit": ["temperature"]}, "held_out/student": {}}
    settings = {"temperature": 0.6, "max_tokens": 9, "models": models}
    output = Output(tmp_path / "evaluate", Score)
    output.save(Manifest(stage="evaluate", version=1, settings=settings, inputs={}))
    assert sampling_of(run) == {"temperature": "0.6 (teacher: server's own)", "max_tokens": "9"}


@pytest.mark.parametrize("stage", ["../small/filter", "/filter", "traces", "filter/../filter"])
def test_rows_are_read_only_from_the_run(run: Run, stage: str) -> None:
    with pytest.raises(UserError, match="no stage"):
        run.rows(stage)


def test_notebooks_show_text_and_never_run_it(run: Run) -> None:
    answered = run.problem(run.problems.head(1)[0].id)
    for html in (answered._repr_html_(), run.sample(3)._repr_html_(), run.traces._repr_html_()):
        assert "&lt;script&gt;" in html
        assert "<script" not in html
    assert "36 rows of Trace in 3 shards; the first 5" in run.traces._repr_html_()
    assert "filter" in run._repr_html_()
    assert "TraceVerdict" in run.verdicts._repr_html_()
