"""[train.trl]: what passes, what is refused, and that it is part of what is trained."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.train import Train
from pipeline.engine.changed_settings import manifest_of
from pipeline.engine.stage import Job
from pipeline.errors import UserError
from pipeline.train.objectives import OBJECTIVES
from pipeline.train.stage import TRAIN
from pipeline.train.trl_arguments import FIXED, REPLACES, SET_BY, check, known_names
from tests import tiny_student

trl = pytest.importorskip("trl")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_names_are_those_of_the_class_that_the_trainer_gets(objective: Any) -> None:
    config = getattr(trl, OBJECTIVES[objective].config)
    assert {each.name for each in fields(config) if each.init} <= known_names(objective)
    assert all(name in config.__dataclass_fields__ for name in known_names(objective))


def test_every_argument_that_the_trainer_is_given_is_refused_or_replaces_a_setting(tmp_path: Path) -> None:
    from pipeline.train.trainer.arguments import arguments

    given = arguments(tiny_student.job(tmp_path, batch_size=16), {"train": [0], "validation": [0]}, 1)
    assert given.keys() <= SET_BY.keys() | FIXED | REPLACES.keys()


def test_what_the_student_samples_with_is_refused_too(tmp_path: Path) -> None:
    from pipeline.train.trainer import on_policy
    from pipeline.train.trainer.trainer import Setup

    job = tiny_student.job(tmp_path, objective="on_policy", on_policy={"sampler": "vllm"})
    setup = Setup(job, {}, None, None, 2, {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False})  # type: ignore[arg-type]
    ours, default = on_policy._arguments(setup), trl.DistillationConfig("x", use_cpu=True, bf16=False)
    names = [each.name for each in fields(default) if each.init]
    changed = {name for name in names if getattr(ours, name) != getattr(default, name)}
    assert {"use_vllm", "generation_kwargs"} <= changed <= SET_BY.keys() | FIXED


def test_what_passes_reaches_the_trainer_and_may_replace_optimizer_and_schedule(tmp_path: Path) -> None:
    from trl import SFTConfig

    from pipeline.train.trainer.arguments import arguments

    more = {"neftune_noise_alpha": 5, "optim": "sgd", "lr_scheduler_type": "cosine_with_min_lr"}
    more |= {"lr_scheduler_kwargs": {"min_lr_rate": 0.1}}
    job = tiny_student.job(tmp_path, trl=more)
    check(job.train)
    made = SFTConfig(**arguments(job, {"train": [0]}, 1))
    assert (made.optim, made.neftune_noise_alpha) == ("sgd", 5)
    assert made.lr_scheduler_kwargs == {"min_lr_rate": 0.1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trl": {"warmup_steps": 3}}, "train.trl.warmup_steps: retort sets it; use train.warmup"),
        ({"trl": {"output_dir": "x"}}, "retort sets it, and depends on its value; remove it"),
        ({"trl": {"neftune_noise": 3}}, "no such argument; did you mean 'neftune_noise_alpha'?"),
        ({"trl": {"optim": "sgd"}, "optimizer": "adafactor"}, "takes the place of train.optimizer: give one"),
        ({"trl": {"f_divergence_type": "x"}}, "TRL's SFTConfig has no such argument"),
        ({"trl": {"beta": 1}, "objective": "dpo"}, "retort sets it; use the table of the objective"),
        ({"trl": {"packing": True}, "objective": "on_policy"}, "TRL's DistillationConfig has no such"),
    ],
)
def test_what_contradicts_or_is_unknown_is_refused_in_one_line(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        check(Train.model_validate(settings))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_argument_of_the_objective_s_own_configuration_passes() -> None:
    check(Train(objective="dpo", trl={"f_divergence_type": "js_divergence"}))


def test_arguments_change_what_is_trained_and_an_empty_table_changes_nothing(tmp_path: Path) -> None:
    def settings(**train: Any) -> dict[str, Any]:
        return manifest_of(Job(TRAIN, tiny_student.recipe(**train), tmp_path)).settings

    assert settings(trl={"neftune_noise_alpha": 5})["trl"] == {"neftune_noise_alpha": 5}
    assert settings() == settings(trl={})
    assert "trl" not in settings()
