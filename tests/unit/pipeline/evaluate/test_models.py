"""The compared models: a base that was pruned by importance depends on the examples that decided it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Recipe
from pipeline.evaluate.models import eval_models, sampling_stages
from tests import tiny_student


@pytest.mark.parametrize(
    ("student", "name", "made_from"),
    [
        ({}, "org/base", []),
        ({"layers": 4}, "org/base pruned to 4 layers", []),
        ({"layers": 4, "heads": 6}, "org/base pruned to 4 layers and 6 heads", ["select"]),
        ({"intermediate_size": 64}, "org/base pruned to 64 MLP channels", ["select"]),
    ],
)
def test_a_base_is_sampled_again_when_what_decides_its_weights_changes(
    student: dict[str, Any], name: str, made_from: list[str], tmp_path: Path
) -> None:
    recipe = tiny_student.recipe("org/base").model_dump()
    recipe["student"] |= student
    found = Recipe.model_validate(recipe)
    models = {model.role: model for model in eval_models(found, tmp_path)}
    base, trained = (sampling_stages(models[role], found, None)[0] for role in ("base", "student"))  # type: ignore[arg-type]
    assert models["base"].model == name
    assert [stage.name for stage in base.reads] == ["ingest", *made_from]
    assert [stage.name for stage in trained.reads] == ["ingest", "train"]
    assert models["student"].pruning is None
