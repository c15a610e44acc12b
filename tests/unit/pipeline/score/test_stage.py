"""The stage `score` without its model: checks of the recipe, and how its process may end."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Recipe
from pipeline.config.score import Scoring
from pipeline.engine.subprocess_guard import Child
from pipeline.errors import Stopped, UserError
from pipeline.inference.pruning import Pruning
from pipeline.score.job import ScoreJob, ShardScores
from pipeline.score.stage import SCORE, _wait, model_of
from pipeline.stages import STAGES, stages_of
from tests import tiny_student


def recipe(score: dict[str, Any] | None, **tables: Any) -> Recipe:
    return Recipe.model_validate(tiny_student.recipe().model_dump() | {"score": score} | tables)


def score_job(folder: Path) -> ScoreJob:
    return ScoreJob(
        model="m", bf16=False, settings=Scoring(), reasoning="tags", prompt="plain", traces=folder,
        verdicts=folder, shards=("a",), cache=folder,
    )  # fmt: skip


def ended(folder: Path, code: str) -> Child:
    return Child([sys.executable, "-c", code], folder / "log")


def test_a_recipe_without_the_table_has_no_such_stage() -> None:
    others = [name for name in STAGES if name != "compress"]
    assert list(stages_of(recipe(None))) == [name for name in others if name != "score"]
    assert stages_of(recipe(None))["select"] == STAGES["select"]
    with_scores = stages_of(recipe({}))
    assert list(with_scores) == others
    assert [given.name for given in with_scores["select"].reads] == ["generate", "filter", "score"]
    assert with_scores["train"].reads[1] is with_scores["select"]
    alone = stages_of(recipe({"model": "org/small"}, student=None))
    assert list(alone) == [name for name in others if name != "train"]


def test_the_student_reads_unless_the_table_names_another_model() -> None:
    assert model_of(recipe({})) == ("org/name", None)
    layers = {"model": "org/name", "layers": 3}
    assert model_of(recipe({}, student=layers)) == ("org/name", Pruning(layers=3))
    assert model_of(recipe({"model": "org/small"}, student=layers | {"heads": 2})) == ("org/small", None)
    with pytest.raises(UserError, match=r"pruning to 3 layers and 2 heads is measured: set score\.model"):
        model_of(recipe({}, student=layers | {"heads": 2}))
    assert model_of(recipe({"model": "org/small"})) == ("org/small", None)


@pytest.mark.parametrize(
    ("table", "tables", "message"),
    [
        (None, {}, r"score needs a table \[score\]"),
        ({}, {"student": None}, "set score.model, or add a table"),
        ({"model": "./missing"}, {}, "missing"),
        ({"model": "org/m", "student_samples": 2}, {"student": None}, "student_samples needs a table"),
        ({"student_samples": 2}, {"filter": {"rules": {"finished": {}}}}, "counts verdicts of the rule"),
    ],
)
def test_mistakes_are_found_before_any_work(
    table: dict[str, Any] | None, tables: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        SCORE.check(recipe(table, **tables))


def test_settings_of_the_student_s_samples_count_only_where_it_is_sampled() -> None:
    assert "attempts" not in SCORE.settings(recipe({}))
    sampled = SCORE.settings(recipe({"student_samples": 2}))
    assert (sampled["attempts"]["samples"], sampled["attempts"]["split"]) == (2, "train")


def test_a_process_that_dies_stops_the_stage_with_its_last_words(tmp_path: Path) -> None:
    with (
        ended(tmp_path, "print('out of memory'); raise SystemExit(1)") as child,
        pytest.raises(Stopped, match=r"(?s)ended early.*out of memory"),
    ):
        _wait(child, score_job(tmp_path), "a")


def test_a_refusal_is_the_user_s_mistake(tmp_path: Path) -> None:
    job = score_job(tmp_path)
    job.refusal.write_text("no chat template\n")
    with ended(tmp_path, "raise SystemExit(2)") as child, pytest.raises(UserError, match="no chat template"):
        _wait(child, job, "a")


def test_scores_written_just_before_the_end_are_read(tmp_path: Path) -> None:
    job, expected = score_job(tmp_path), ShardScores(rows=(), counts={"kept": 0})
    with ended(tmp_path, "pass") as child:
        child.wait(60)
        job.scores("a").write_text(expected.model_dump_json())
        assert _wait(child, job, "a") == expected
