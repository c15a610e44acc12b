"""The training objectives, the white-box terms that can be added to one, and what each needs of a recipe.

Light to import: `trainer/` computes the losses. To add an objective: its settings in
pipeline/config/train.py, an entry in OBJECTIVES, and a module of its name in pipeline/train/trainer/
with a function `build(setup)` that returns the trainer. To add a term: a table of its name in the settings,
a name in TERMS, a column in rows.Step, and a class in pipeline/train/trainer/loss_terms.py.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipeline import install_hints
from pipeline.config import Recipe
from pipeline.config.endpoints import Endpoint
from pipeline.config.train import KDTeacher, Train
from pipeline.errors import UserError
from pipeline.hardware import has_gpu


@dataclass(frozen=True)
class ObjectiveSpec:
    """What the train stage, the preflight and the memory estimate need to know of an objective."""

    check: Callable[[Recipe], None] = lambda recipe: None
    """Raises UserError where the recipe lacks something."""
    teachers: Callable[[Recipe], tuple[KDTeacher, ...]] = lambda recipe: ()
    """The models that are loaded next to the student."""
    soft_labels: bool = False
    """Whether a teacher reads the examples before the training (labels.py)."""
    takes_terms: bool = True
    """Whether white-box terms can be added."""
    pairs: bool = False
    """Whether it learns from pairs of a kept and a rejected trace of the same problem."""
    config: Literal["SFTConfig", "DPOConfig", "DistillationConfig"] = "SFTConfig"
    """TRL's configuration, which [train.trl] adds to."""


TERMS = ("features", "attention_transfer", "relations")  # names of their tables in [train]


def terms(train: Train) -> tuple[str, ...]:
    """The names of the white-box terms that are on."""
    return tuple(name for name in TERMS if getattr(train, name) is not None)


def remote_teacher(recipe: Recipe) -> Endpoint | None:
    """The teacher of on_policy that is asked over HTTP; None where one is loaded next to the student."""
    if recipe.train.objective != "on_policy":
        return None
    named = recipe.train.on_policy.teacher
    if isinstance(named, Endpoint):
        if not named.base_urls:
            raise UserError("train.on_policy.teacher: give base_url, or name a model to load here")
        return named
    only = recipe.teacher[0] if len(recipe.teacher) == 1 else None
    return only if named is None and only is not None and only.base_urls else None


def without_endpoints(train: Train) -> Train:
    """The settings without the models that are asked over HTTP, whose tables may hold secrets."""
    none = {"teacher": None}
    tables = {"topk_kd": train.topk_kd.model_copy(update=none)}
    return train.model_copy(update=tables | {"on_policy": train.on_policy.model_copy(update=none)})


def teachers(recipe: Recipe) -> tuple[KDTeacher, ...]:
    """The models that are loaded next to the student; the first is that of the white-box terms.

    Raises UserError where one is only an endpoint, and for terms that the objective cannot have.
    """
    train = recipe.train
    found = OBJECTIVES[train.objective].teachers(recipe)
    if not (on := terms(train)):
        if train.term_teacher:
            raise UserError(f"train.term_teacher has no effect without one of the tables {', '.join(TERMS)}")
        return found
    if not OBJECTIVES[train.objective].takes_terms:
        raise UserError(f"train.{on[0]} cannot be added to train.objective = {train.objective!r}: remove one")
    if found and train.term_teacher:
        raise UserError(
            f"train.term_teacher has no effect with train.objective = {train.objective!r}: the terms take "
            "the first of its teachers"
        )
    return found or _term_teacher(recipe, on[0])


def _term_teacher(recipe: Recipe, term: str) -> tuple[KDTeacher, ...]:
    if named := recipe.train.term_teacher:
        return (KDTeacher(model=named),)
    found = _local_teachers(recipe, f"train.{term}", "train.term_teacher")
    if len(found) > 1:
        raise UserError(f"train.{term} takes one teacher: set train.term_teacher")
    return found


def check_relations(train: Train, processes: int) -> None:
    """Raises UserError where a batch has too few examples to relate to each other."""
    if train.relations is None:
        return
    least = 2 if train.relations.loss == "similarity" else 3
    if train.micro_batch_size * processes < least:
        raise UserError(
            f"train.relations compares the examples of one micro batch: {train.micro_batch_size} on "
            f"{processes} device(s), at least {least} are needed: raise train.micro_batch_size"
        )


def _check_on_policy(recipe: Recipe) -> None:
    """The student's own samples have no stored confidence, and TRL shuffles and pads them."""
    settings = recipe.train.on_policy
    if remote_teacher(recipe) and (settings.beta not in (0, 1) or settings.temperature != 1):
        raise UserError(
            "train.on_policy: a teacher behind a URL gives the log-probabilities of few tokens, at "
            "temperature 1: set beta to 0 or 1, and temperature to 1"
        )
    if settings.sampler_url and settings.sampler != "vllm":
        raise UserError('train.on_policy.sampler_url has no effect without sampler = "vllm": remove it')
    _check_sampler(recipe)
    defaults = Train()
    for name in ("order", "weight_by", "packing"):
        if getattr(recipe.train, name) != getattr(defaults, name):
            raise UserError(f"train.{name} has no effect with train.objective = 'on_policy': remove it")


def _check_sampler(recipe: Recipe) -> None:
    """TRL hands the new weights to the vLLM of its own environment before each step."""
    settings, setting = recipe.train.on_policy, 'train.on_policy.sampler = "vllm"'
    if settings.sampler != "vllm":
        return
    gpu = recipe.ray.train.gpus > 0 if recipe.ray.train else has_gpu()
    if not (gpu or settings.sampler_url):
        raise UserError(f"{setting} needs a GPU, and there is none: vLLM on a CPU takes no new weights")
    if importlib.util.find_spec("vllm") is None:
        raise UserError(f"{setting} needs vllm, which is not installed: {install_hints.extra('vllm')}")


def _check_pairs(recipe: Recipe) -> None:
    """A pair is one example of two traces, and only the kept one has a confidence."""
    objective = recipe.train.objective
    if not recipe.select.rejected:
        raise UserError(
            f"train.objective = {objective!r} learns from rejected traces: set select.rejected = true"
        )
    if recipe.train.weight_by:
        raise UserError(f"train.weight_by has no effect with train.objective = {objective!r}: remove it")


def _check_dpo(recipe: Recipe) -> None:
    _check_pairs(recipe)
    if recipe.train.packing:
        raise UserError("train.packing has no effect with train.objective = 'dpo': TRL pads pairs; remove it")
    lora, off = recipe.train.lora, recipe.train.trl.get("disable_dropout", True)
    if lora and lora.dropout and off:
        raise UserError(
            "train.lora.dropout has no effect with train.objective = 'dpo': TRL turns it off; remove it, "
            "or set train.trl.disable_dropout = false"
        )


def _logit_kd_teachers(recipe: Recipe) -> tuple[KDTeacher, ...]:
    return recipe.train.logit_kd.teachers or _objective_teachers(recipe)


def _on_policy_teachers(recipe: Recipe) -> tuple[KDTeacher, ...]:
    if remote_teacher(recipe):
        return ()
    if named := recipe.train.on_policy.teacher:
        assert isinstance(named, str)
        return (KDTeacher(model=named),)
    found = _objective_teachers(recipe)
    if len(found) > 1:
        raise UserError("train.objective = 'on_policy' takes one teacher: set train.on_policy.teacher")
    return found


def _objective_teachers(recipe: Recipe) -> tuple[KDTeacher, ...]:
    objective = recipe.train.objective
    return _local_teachers(recipe, f"train.objective = {objective!r}", f"a model in train.{objective}")


def _local_teachers(recipe: Recipe, what: str, setting: str) -> tuple[KDTeacher, ...]:
    """The recipe's teachers. Raises UserError where one is an API, which gives no full distributions."""
    if not recipe.teacher:
        raise UserError(f"{what} needs a model: name it in {setting}, or add [teacher]")
    for teacher in recipe.teacher:
        if teacher.serve is None:
            raise UserError(
                f"{what} needs the teacher's weights, and {teacher.display_name!r} "
                f"is reached at a base_url: name {setting}"
            )
    return tuple(KDTeacher(model=teacher.model) for teacher in recipe.teacher)


OBJECTIVES: dict[str, ObjectiveSpec] = {
    "sft": ObjectiveSpec(),
    "topk_kd": ObjectiveSpec(soft_labels=True),
    "logit_kd": ObjectiveSpec(teachers=_logit_kd_teachers),
    "on_policy": ObjectiveSpec(
        check=_check_on_policy,
        teachers=_on_policy_teachers,
        takes_terms=False,
        config="DistillationConfig",
    ),
    "redi": ObjectiveSpec(check=_check_pairs, pairs=True, takes_terms=False),
    "dpo": ObjectiveSpec(check=_check_dpo, pairs=True, takes_terms=False, config="DPOConfig"),
}
