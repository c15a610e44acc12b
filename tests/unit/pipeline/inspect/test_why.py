"""A preview of the rules says what the filter stage would say."""

from pathlib import Path

import pytest

from pipeline.config.filters import Filter, Majority
from pipeline.inspect.costs import costs
from pipeline.inspect.run import open_run
from pipeline.inspect.why import rules_of_one, why_of
from tests.small_run import PROBLEMS, SAMPLES, SHARDS, write_run
from tests.unit.filters.test_table import a_trace


@pytest.mark.parametrize(("kind", "graded"), [("math", False), ("python", True), ("reasoning_gym", True)])
def test_programs_are_graded_by_their_tests_and_not_by_a_vote(kind: str, graded: bool) -> None:
    trace = a_trace(answer_type=kind, reference=None)
    assert ("correct" in rules_of_one(Filter(majority=Majority()), trace)) == graded


@pytest.mark.parametrize(("ignored", "kept"), [((), 1), (("correct",), SAMPLES)])
def test_a_rule_that_does_not_decide_rejects_nothing_in_a_preview(
    tmp_path: Path, ignored: tuple[str, ...], kept: int
) -> None:
    run = write_run(tmp_path / "small")
    for path in run.output("filter").folder.iterdir():
        path.unlink()
    rules: dict[str, dict[str, object]] = {"correct": {}}
    recipe = run.recipe.model_copy(update={"filter": Filter(rules=rules, ignored=ignored)})
    (run.path / "recipe.json").write_text(recipe.model_dump_json())
    found = why_of(open_run(run.path), "filter", 1)
    assert found.preview_of == SHARDS * PROBLEMS * SAMPLES
    assert found.funnel.kept == SHARDS * PROBLEMS * kept
    assert found.funnel.rules["correct"].failed == SHARDS * PROBLEMS * (SAMPLES - 1)
    assert bool(found.examples) == (not ignored)


def test_traces_sampled_after_the_filter_stage_are_neither_kept_nor_forgotten(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    filtered = run.output("filter")
    found = filtered.manifest()
    assert found is not None
    assert found.digests is not None
    digests = dict(list(found.digests.items())[:-1])
    made_of = {"shards": tuple(digests), "digests": digests, "inputs": {"generate": "before"}}
    filtered.save(found.model_copy(update=made_of))
    assert why_of(run, "filter", 0).unfiltered == PROBLEMS * SAMPLES
    assert [cost.kept for cost in costs(run)] == [None, None]
