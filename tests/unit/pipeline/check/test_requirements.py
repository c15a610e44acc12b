"""What a run is checked for before it starts."""

from __future__ import annotations

from pathlib import Path

from pipeline.check import requirements
from pipeline.config import Recipe
from pipeline.train.model_facts import ModelFacts
from tests import tiny_student

HUGE = {"parameters": 10**13, "layers": 100, "hidden": 10_000, "intermediate": 10_000, "vocabulary": 100_000}
RAY = {"train": {"replicas": 4, "gpus": 8}, "evaluate": {"gpus": 8}}


def test_the_memory_of_this_machine_does_not_decide_what_runs_on_ray(tmp_path: Path) -> None:
    given = tiny_student.recipe()
    on_ray = Recipe.model_validate(given.model_dump() | {"ray": RAY})
    facts = ModelFacts(name="huge", downloaded=True, weight_bytes=10**13, **HUGE)  # type: ignore[arg-type]
    states = []
    for recipe in (given, on_ray):
        assert recipe.student is not None
        found = requirements._student(recipe, recipe.student, tmp_path, facts, [], train=True)
        states += [each.state for each in found if each.what.startswith("memory")]
    assert states == ["missing"] * 2 + ["unknown"] * 2
