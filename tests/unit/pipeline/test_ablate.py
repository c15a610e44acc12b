"""What an ablation trains, and how it compares the students, from prepared scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.ablate import ALL, arm_recipe, check, equal_size, print_ablation, result
from pipeline.config import Recipe
from pipeline.config.load import parse_recipe
from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.inference.engines import Engine
from pipeline.model_rows import Score
from pipeline.train.stage import TRAIN

RECIPE: dict[str, Any] = {
    "run": "base",
    "ingest": {"sources": [{"kind": "file", "path": "problems.jsonl"}]},
    "teacher": {"model": "fake", "base_url": "http://127.0.0.1:9/v1"},
    "generate": {"prompt": "plain"},
    "filter": {"duplicates": {}},
    "student": {"model": "org/student"},
}
PROBLEMS = 50


def recipe(**changes: Any) -> Recipe:
    return parse_recipe(json.loads(json.dumps(RECIPE | changes)), (), "here")


def write_scores(folder: Path, given: Recipe, correct: int, version: str) -> None:
    """Of two samples of each problem, both are correct for the first `correct` problems."""
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text(given.model_dump_json())
    output = Output(folder / "evaluate", Score)
    output.save(Manifest(stage="evaluate", version=3, settings={}, inputs={}, shards=("scores",)))
    output.write("scores", [score(i, 2 if i < correct else 0) for i in range(PROBLEMS)])
    output.finish({"engines": {"held_out/student": [Engine(name="vllm", version=version).model_dump()]}})


def score(i: int, correct: int) -> Score:
    return Score(
        id=f"held_out/student/{i}", set="held_out", model_role="student", model="m", prompt="plain",
        problem_id=str(i), source="s", samples=2, correct=correct, majority=correct / 2, undecided=0,
        truncated=0, malformed=0, failed=0, completion_tokens=7,
    )  # fmt: skip


def test_each_training_is_a_run_that_reuses_the_paid_traces() -> None:
    given = recipe(seed=7)
    first, second, off = (
        arm_recipe(given, *arm, examples=99) for arm in ((ALL, 0), (ALL, 1), ("correct", 1))
    )
    assert [r.run for r in (first, second, off)] == [
        "base-with-all-seed0",
        "base-with-all-seed1",
        "base-without-correct-seed1",
    ]
    assert [r.reuse for r in (first, second, off)] == ["base", "base-with-all-seed0", "base-with-all-seed0"]
    assert [r.train.seed for r in (first, second, off)] == [7, 8, 8]
    assert {r.seed for r in (first, second, off)} == {7}  # of the samples and the validation split
    assert {r.select.max_examples for r in (first, second, off)} == {99}
    assert [r.filter.ignored for r in (first, off)] == [(), ("correct",)]
    assert off.filter.rules == given.filter.rules  # applied all the same


def test_a_rule_of_one_s_own_gives_a_name_that_a_run_can_have() -> None:
    rule = "rules/my_rules.py:brief"
    off = arm_recipe(recipe(filter={"rules": {rule: {}}}), rule, 0)
    assert off.run == "base-without-rules-my_rules.py-brief-seed0"
    assert Recipe.model_validate_json(off.model_dump_json()).run == off.run


def test_the_seed_of_the_training_is_the_recipe_s_unless_it_is_set() -> None:
    given = recipe()
    assert TRAIN.settings(given)["seed"] == given.seed
    assert TRAIN.settings(recipe(train={"seed": 5}))["seed"] == 5


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (("corect",), "did you mean 'correct'"),
        (("majority",), "no such rule is on"),
        (("correct", "correct"), "given twice"),
    ],
)
def test_a_rule_that_is_not_on_is_refused(rules: tuple[str, ...], why: str) -> None:
    check(recipe(), ("duplicates", "correct"))
    with pytest.raises(UserError, match=why):
        check(recipe(), rules)


def test_a_recipe_without_a_student_is_refused() -> None:
    with pytest.raises(UserError, match="trains students"):
        check(parse_recipe({k: v for k, v in RECIPE.items() if k != "student"}, (), "here"), ("correct",))


def test_an_ignored_rule_must_be_on() -> None:
    assert recipe(filter={"ignored": ["finished"]}).filter.ignored == ("finished",)
    with pytest.raises(UserError, match="ignored: 'difficulty' is not on"):
        recipe(filter={"ignored": ["difficulty"]})


def test_all_trainings_are_as_large_as_the_smallest() -> None:
    assert equal_size({ALL: 70, "correct": 100}) == 70
    assert equal_size({ALL: 70, "correct": 100}, 100) == 70
    assert equal_size({ALL: 70, "correct": 100}, 50) == 50  # select.max_examples of the recipe
    with pytest.raises(UserError, match="without-finished keeps no example"):
        equal_size({ALL: 70, "finished": 0})


def test_an_objective_that_learns_from_pairs_is_refused() -> None:
    given = recipe(train={"objective": "dpo"}, select={"rejected": True})
    with pytest.raises(UserError, match="objective = 'dpo' learns from those alone that have a rejected"):
        check(given, ("correct",))


def test_the_students_are_compared_problem_by_problem_over_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = recipe()
    for arm, seed, correct, version in ((ALL, 0, 30, "1"), (ALL, 1, 34, "1"), ("correct", 0, 20, "1")):
        one = arm_recipe(given, arm, seed)
        write_scores(tmp_path / one.run, one, correct, version)
    one = arm_recipe(given, "correct", 1)
    write_scores(tmp_path / one.run, one, 22, "2")
    found = result(given, ("correct",), 2, tmp_path, {ALL: 70, "correct": 100})
    [effect] = found.effects
    assert (effect.set, effect.rule, effect.problems) == ("held_out", "correct", PROBLEMS)
    assert (round(effect.on, 6), round(effect.off, 6)) == (0.64, 0.42)
    assert [round(each, 6) for each in effect.by_seed] == [0.2, 0.24]
    mean, low, high = effect.difference
    assert round(mean, 6) == 0.22
    assert 0.05 < low < mean < high < 0.4
    assert found.examples == 70
    print_ablation(found)
    printed = capsys.readouterr().out
    assert "+20.0 +24.0" in printed
    assert "70 and 100" in printed
    assert "made by different engines: vllm 1" in printed
