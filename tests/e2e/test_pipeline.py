"""Ingest to select with the fake server, read from Python and the shell."""

from collections import Counter

import pytest

from pipeline import open_run
from pipeline.engine.progress import plain
from pipeline.inspect.run import Run
from tests.conftest import FakeServer
from tests.e2e.runs import PROBLEMS, SAMPLES, retort, write_recipe

STAGES = ("ingest", "generate", "filter", "select")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("pipeline")
    shares = ("--malformed", "0.2", "--truncated", "0.1", "--correct", "0.5", "--faults", '{"429": 0.1}')
    server = FakeServer(*shares)
    try:
        recipe = str(write_recipe(folder, server.url))
        for stage in STAGES:
            done = retort(folder, stage, recipe, "select.per_problem=1", "select.validation=0.3")
            assert done.returncode == 0, done.stderr
    finally:
        server.stop()
    return open_run(folder / "test")


def test_every_count_adds_up_from_problems_to_examples(run: Run) -> None:
    report = run.report("filter")
    assert report["traces"] == PROBLEMS * SAMPLES == len(run.traces)
    rejected = sum(report["rejected"].values())
    assert report["traces"] == report["kept"] + rejected + sum(report["undecided"].values())
    assert 0 < report["kept"] < report["traces"]
    assert {"finished: truncated", "single_reasoning: unclosed"} <= set(report["rejected"])
    chosen = run.report("select")
    assert chosen["kept"] == report["kept"]
    assert chosen["kept"] == chosen["same_text"] + chosen["over_per_problem"] + len(run.examples)


def test_rejected_traces_keep_their_reasons_and_examples_are_made_of_kept_ones(run: Run) -> None:
    traces = {trace.id: trace for trace in run.traces}
    for trace in traces.values():
        fails = [v for v in trace.verdicts if v.outcome == "failed"]
        assert (trace.outcome == "rejected") == bool(fails)
        assert [v.filter for v in trace.verdicts] == [
            "finished",
            "single_reasoning",
            "final_answer",
            "correct",
        ]
        assert trace.question
        assert trace.prompt_hash
        assert trace.teacher == "fake"
    for example in run.examples:
        trace = traces[example.id]
        assert trace.outcome == "kept"
        answer = example.messages[-1].content
        assert answer == f"<think>\n{trace.reasoning}\n</think>\n\n{trace.response}"
        assert [m.role for m in example.messages] == ["user", "assistant"]


def test_a_problem_has_at_most_k_examples_all_in_one_split(run: Run) -> None:
    rows = list(run.examples)
    assert len({row.problem_id for row in rows}) == len(rows)
    assert {row.split for row in rows} == {"train", "validation"}


def test_tables_convert_to_arrow_pandas_and_datasets(run: Run) -> None:
    assert run.traces.to_arrow().num_rows == PROBLEMS * SAMPLES
    frame = run.problems.to_pandas()
    assert frame["question"].iloc[0] == "What is 1 + 1?"
    assert run.examples.to_datasets()["train"][0]["messages"][-1]["role"] == "assistant"
    why = run.why()
    assert why.model_dump() == run.report("filter")
    fails = [v.filter for v in run.verdicts if v.outcome == "failed"]
    assert {name: rule.failed for name, rule in why.rules.items() if rule.failed} == Counter(fails)
    only = [{v.filter for v in t.verdicts if v.outcome == "failed"} for t in run.traces]
    assert {name: rule.failed_alone for name, rule in why.rules.items()} == {
        name: only.count({name}) for name in why.rules
    }
    assert run.counts()["generate"].rows == PROBLEMS * SAMPLES


def test_the_shell_shows_the_same_as_python(run: Run) -> None:
    runs = run.path.parent
    why = retort(runs, "why", "test").stdout
    assert f"= {run.why().kept} kept" in why
    assert "rejected, finished: truncated" in why
    status = retort(runs, "status", "test").stdout
    assert status.count("complete") == len(STAGES)
    assert f"{PROBLEMS * SAMPLES} traces: {run.report('filter')['kept']} kept" in status
    assert "test" in retort(runs, "status").stdout
    shown = retort(runs, "show", "test", "--stage", "filter", "--rejected", "-n", "2").stdout
    assert shown.count("outcome: rejected") == 2
    assert "[assistant]" in retort(runs, "show", "test", "--stage", "select", "-n", "1").stdout


def test_the_run_stores_its_recipe_and_the_duration_of_each_command(run: Run) -> None:
    assert run.recipe.select.per_problem == 1
    assert [event["stage"] for event in run.events()] == list(STAGES)
    assert all(event["exit_code"] == 0 for event in run.events())


def test_model_text_cannot_control_the_terminal() -> None:
    assert plain("a\x1b[2Jb\rc\u202ed\n") == "a\\x1b[2Jb\\rc\\u202ed\n"
