"""The training objectives and what each needs of a recipe. Light to import: `trainer/` computes the losses.

To add an objective: its settings in pipeline/config/training.py, an entry in OBJECTIVES, and a module of its
name in pipeline/train/trainer/ with a function `build(setup)` that returns the trainer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.config import Recipe
from pipeline.config.training import KDTeacher, Train
from pipeline.errors import UserError


@dataclass(frozen=True)
class ObjectiveSpec:
    """What the train stage, the preflight and the memory estimate need to know of an objective."""

    check: Callable[[Recipe], None] = lambda recipe: None
    """Raises UserError where the recipe lacks something."""
    teachers: Callable[[Recipe], tuple[KDTeacher, ...]] = lambda recipe: ()
    """The models that are loaded next to the student."""
    needs_top_logprobs: bool = False
    """Whether labels come from the top-k log-probabilities stored with the traces."""
    tiled_loss: bool = False
    """Whether TRL's loss, which never holds all logits, serves as long as examples are not weighted."""
    logit_bytes: tuple[float, float] = (0.0, 0.0)
    """Peak bytes per logit (token with loss x vocabulary) of a loss without tiles: unsharded, and sharded,
    where accelerate does not convert the output. Measured on a CPU with the same casts."""


def teachers(recipe: Recipe) -> tuple[KDTeacher, ...]:
    """The models that are loaded next to the student. Raises UserError where one is only an endpoint."""
    return OBJECTIVES[recipe.train.objective].teachers(recipe)


def _check_topk_kd(recipe: Recipe) -> None:
    """It learns from stored log-probabilities; 20 at each position are usual."""
    recipe.check_logprobs("train.objective = 'topk_kd'", least=1)


def _check_on_policy(recipe: Recipe) -> None:
    """The student's own samples have no stored confidence, and TRL shuffles and pads them."""
    defaults = Train()
    for name in ("order", "weight_by", "packing"):
        if getattr(recipe.train, name) != getattr(defaults, name):
            raise UserError(f"train.{name} has no effect with train.objective = 'on_policy': remove it")


def _logit_kd_teachers(recipe: Recipe) -> tuple[KDTeacher, ...]:
    return recipe.train.logit_kd.teachers or _local_teachers(recipe)


def _on_policy_teachers(recipe: Recipe) -> tuple[KDTeacher, ...]:
    if named := recipe.train.on_policy.teacher:
        return (KDTeacher(model=named),)
    found = _local_teachers(recipe)
    if len(found) > 1:
        raise UserError("train.objective = 'on_policy' takes one teacher: set train.on_policy.teacher")
    return found


def _local_teachers(recipe: Recipe) -> tuple[KDTeacher, ...]:
    """The recipe's teachers. Raises UserError where one is an API, which gives no full distributions."""
    objective = recipe.train.objective
    if not recipe.teacher:
        raise UserError(
            f"train.objective = {objective!r} needs a model: name it in train.{objective}, or add [teacher]"
        )
    for teacher in recipe.teacher:
        if teacher.serve is None:
            raise UserError(
                f"train.objective = {objective!r} needs the teacher's weights, and {teacher.display_name!r} "
                f"is reached at a base_url: name a model in train.{objective}"
            )
    return tuple(KDTeacher(model=teacher.model) for teacher in recipe.teacher)


OBJECTIVES: dict[str, ObjectiveSpec] = {
    "sft": ObjectiveSpec(tiled_loss=True, logit_bytes=(12.0, 8.2)),
    "topk_kd": ObjectiveSpec(check=_check_topk_kd, needs_top_logprobs=True, logit_bytes=(16.0, 8.2)),
    "logit_kd": ObjectiveSpec(teachers=_logit_kd_teachers, logit_bytes=(14.3, 10.2)),
    "on_policy": ObjectiveSpec(check=_check_on_policy, teachers=_on_policy_teachers, tiled_loss=True),
}
