"""What a training on a Ray cluster is checked for by the command, before anything is sampled."""

from __future__ import annotations

import pytest

from pipeline.config import Recipe
from pipeline.errors import UserError
from pipeline.train import launcher
from pipeline.train.stage import TRAIN
from tests import tiny_student


def test_of_a_training_on_ray_the_processes_of_all_nodes_count() -> None:
    ray = {"train": {"replicas": 2, "gpus": 8}}
    one = tiny_student.recipe(relations={}, term_teacher="m")
    both = Recipe.model_validate(one.model_dump() | {"ray": ray})
    with pytest.raises(UserError, match="not a multiple of micro_batch_size x processes = 16 x 16"):
        launcher.check(both)
    assert [TRAIN.settings(recipe)["relation_batch"] for recipe in (one, both)] == [16, 256]
