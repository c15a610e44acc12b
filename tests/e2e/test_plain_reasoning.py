"""A teacher that reasons in plain text: nothing is dropped silently, and it can be taught."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline import open_run
from tests.e2e.runs import PROBLEMS, SAMPLES, retort, sampled_run, write_recipe

CORRECT = ("--correct", "1", "--malformed", "0", "--truncated", "0")


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sampled_run(tmp_path_factory.mktemp("plain"), write_recipe, "--plain", *CORRECT)


def copied(sampled: Path, folder: Path) -> str:
    """Copies the run. Returns its recipe."""
    shutil.copytree(sampled / "test", folder / "test")
    return str(sampled / "recipe.toml")


def test_kept_traces_without_examples_are_refused_with_the_reason_and_a_solution(
    sampled: Path, tmp_path: Path
) -> None:
    recipe = copied(sampled, tmp_path)
    filtered = retort(tmp_path, "filter", recipe, "filter.rules.single_reasoning=false")
    assert filtered.returncode == 0, filtered.stderr
    assert f"filter: kept {PROBLEMS * SAMPLES} of {PROBLEMS * SAMPLES} traces" in filtered.stderr
    refused = retort(tmp_path, "select", recipe, "filter.rules.single_reasoning=false")
    assert (refused.returncode, refused.stderr.count("retort: ")) == (2, 1), refused.stderr
    assert f"of {PROBLEMS * SAMPLES} kept traces {PROBLEMS * SAMPLES} without reasoning" in refused.stderr
    assert 'select.reasoning = "none"' in refused.stderr
    assert open_run(tmp_path / "test").state("select") == "unfinished"
    done = retort(tmp_path, "select", recipe, "select.reasoning=none")  # the same run continues
    assert done.returncode == 0, done.stderr


def test_plain_reasoning_passes_only_if_no_reasoning_is_taught(sampled: Path, tmp_path: Path) -> None:
    recipe = copied(sampled, tmp_path)
    stopped = retort(tmp_path, "filter", recipe)
    assert stopped.returncode == 2
    assert "single_reasoning: no_reasoning" in stopped.stderr
    assert 'select.reasoning = "none"' in stopped.stderr
    shutil.rmtree(tmp_path / "test" / "filter")
    for stage in ("filter", "select"):
        done = retort(tmp_path, stage, recipe, "select.reasoning=none", "select.per_problem=2")
        assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "test")
    report = run.report("select")
    assert report["kept"] == PROBLEMS * SAMPLES
    left = ("without_reasoning", "without_answer", "same_text", "over_per_problem")
    assert report["kept"] == report["train"] + report["validation"] + sum(report[name] for name in left)
    assert f"select: {report['kept']} kept traces = {report['train']} to train on + " in done.stderr
    responses = {trace.id: trace.response for trace in run.traces}
    assert len(run.examples) == report["train"] + report["validation"] > 0
    for example in run.examples:
        assert example.messages[-1].content == responses[example.id]
    published = tmp_path / "published"
    assert retort(tmp_path, "publish", "test", "--to", str(published)).returncode == 0
    assert "then the response alone" in (published / "README.md").read_text()


def test_separate_reasoning_that_is_not_taught_is_counted(tmp_path: Path) -> None:
    folder = sampled_run(tmp_path, write_recipe, *CORRECT)
    for stage in ("filter", "select"):
        done = retort(folder, stage, str(folder / "recipe.toml"), "select.reasoning=none")
        assert done.returncode == 0, done.stderr
    run = open_run(folder / "test")
    examples = list(run.examples)
    assert run.report("select")["reasoning_not_taught"] == len(examples) > 0
    assert f"the reasoning of {len(examples)} examples is not taught" in done.stderr
    assert not any("think" in example.messages[-1].content for example in examples)


def test_without_kept_traces_select_is_refused(sampled: Path, tmp_path: Path) -> None:
    recipe = copied(sampled, tmp_path)
    assert retort(tmp_path, "filter", recipe, "filter.max_rejected_fraction=1").returncode == 0
    refused = retort(tmp_path, "select", recipe)
    assert (refused.returncode, refused.stderr.count("retort: ")) == (2, 1), refused.stderr
    assert "no trace was kept; `retort why test`" in refused.stderr


def test_the_rules_are_printed_and_a_missing_rule_for_the_reference_gives_a_warning(
    sampled: Path, tmp_path: Path
) -> None:
    recipe = copied(sampled, tmp_path)
    words = ("filter.rules.correct.rounding_digits=3", "select.reasoning=none")
    said = retort(tmp_path, "filter", recipe, *words).stderr
    rules = "finished, single_reasoning (required = False), final_answer, correct (rounding_digits = 3)"
    assert f"filter: rules: {rules}" in said
    assert "filter: rejected by each rule: finished 0, single_reasoning 0, final_answer 0, correct 0" in said
    assert "warning" not in said
    settings = json.loads((tmp_path / "test" / "filter" / "manifest.json").read_text())["settings"]
    assert list(settings["rules"]) == ["finished", "single_reasoning", "final_answer", "correct"]
    shutil.rmtree(tmp_path / "test" / "filter")
    off = retort(tmp_path, "filter", recipe, "filter.rules.correct=false", "select.reasoning=none").stderr
    assert off.count("warning: `correct` is switched off, so no rule reads the reference") == 1
