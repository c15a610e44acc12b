"""`retort ablate` up to the training: equal sizes, the same traces, nothing paid again."""

from pathlib import Path

from pipeline.ablate import ALL, arm_recipe, equal_size
from pipeline.config.load import load_recipe
from pipeline.engine.stage import Job
from pipeline.run_stages import run_stage
from pipeline.select.choices import training_ids
from pipeline.select.stage import LEFT_OUT, SELECT
from tests.conftest import StartFakeServer
from tests.e2e.runs import retort, run_stages, write_recipe

STAGES = ("ingest", "generate", "filter")


def test_arms_have_equally_many_examples_of_the_same_traces(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--correct", "0.5")
    path = write_recipe(tmp_path, server.url)
    run_stages(tmp_path, path, *STAGES[:2])
    server.stop()  # all traces are taken over, so no request is made
    base = load_recipe(path)
    sizes = {}
    for arm in (ALL, "correct"):
        recipe = arm_recipe(base, arm, 0)
        for stage in STAGES:
            run_stage(stage, recipe, runs=tmp_path)
        sizes[arm] = len(training_ids(Job(SELECT, recipe, tmp_path / recipe.run)))
    assert sizes["correct"] > sizes[ALL] > 0
    size = equal_size(sizes)
    runs = {arm: run_stage("select", arm_recipe(base, arm, 0, size), runs=tmp_path) for arm in sizes}
    for arm, run in runs.items():
        report = run.report("select")
        assert report["train"] == size == sum(e.split == "train" for e in run.examples)
        assert report["over_max_examples"] == sizes[arm] - size
        assert report["kept"] == sum(report[name] for name in ("train", "validation", *LEFT_OUT))
    off = runs["correct"]
    verdicts = {t.id: {v.filter: v.outcome for v in t.verdicts}["correct"] for t in off.traces}
    assert {verdicts[e.id] for e in off.examples} == {
        "passed",
        "failed",
    }  # the verdict is stored all the same
    assert {t.outcome for t in off.traces if verdicts[t.id] == "failed"} >= {"kept"}
    again = run_stage("select", arm_recipe(base, "correct", 0, size), runs=tmp_path)
    assert [e.id for e in again.examples] == [e.id for e in off.examples]


def test_a_wrong_rule_is_refused_before_anything_runs(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, "http://127.0.0.1:9/v1")
    done = retort(tmp_path, "ablate", str(path), "--without", "finishd")
    assert done.returncode == 2
    assert "--without finishd: no such rule is on; did you mean 'finished'?" in done.stderr
    assert not (tmp_path / "test").exists()
