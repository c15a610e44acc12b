"""What a run is checked for before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import hardware
from pipeline.check import fit, requirements
from pipeline.compress import recovery
from pipeline.config import Recipe
from pipeline.config.compress import Compress, Recovery
from pipeline.errors import UserError
from pipeline.train import launcher
from pipeline.train.model_facts import ModelFacts
from tests import tiny_student
from tests.unit.pipeline.check.test_fit import QWEN25_7B
from tests.unit.pipeline.compress import standin

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


def test_the_recovery_of_a_student_with_adapters_needs_memory_for_all_weights() -> None:
    hardware.assume(1, 80)
    try:
        given = tiny_student.recipe(lora={}, micro_batch_size=1, gradient_checkpointing=True)
        compress = Compress(schemes=("w4a16",), recovery=Recovery())
        recipe = given.model_copy(update={"compress": compress})
        assert fit.training(recipe.train, True, QWEN25_7B, None, ()).state == "ok"
        found = requirements._recovery(recipe, QWEN25_7B, None)
        assert (found.stage, found.state) == ("compress", "missing")
    finally:
        hardware.assume(0, 1)


def test_what_cannot_be_trained_next_to_the_whole_student_is_refused_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hardware, "_assumed", [hardware.Gpu("GPU", 2**36)])
    given = standin.recipe(schemes=["w4a16"], recovery={})
    train = given.train.model_copy(update={"accelerate": {"use_fsdp": True}})
    recipe = given.model_copy(update={"train": train})
    launcher.check(recipe)  # the training itself can run so
    with pytest.raises(UserError, match=r"compress\.recovery: .* needs fsdp_version: 2"):
        recovery.check(recipe)
