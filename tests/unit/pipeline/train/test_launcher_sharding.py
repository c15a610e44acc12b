"""What cannot be trained with sharded weights is refused before sampling, and not estimated."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.check import fit
from pipeline.config.train import Train
from pipeline.train import launcher
from pipeline.train.model_facts import ModelFacts
from tests import tiny_student
from tests.unit.pipeline.train.test_launcher import FSDP2, ZERO3, complaint


def test_a_teacher_that_the_sharding_cannot_hold_is_rejected_before_sampling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launcher, "has_gpu", lambda: True)
    monkeypatch.setattr(launcher, "_require", lambda *_: None)
    given: dict[str, Any] = {"micro_batch_size": 2, "features": {}, "term_teacher": "m"}
    zero3 = {"config_file": ZERO3, "num_processes": 8}
    assert "ZeRO-3 cannot shard a teacher" in complaint(accelerate=zero3, **given)
    one = {"use_fsdp": True, "num_processes": 8}
    assert "needs fsdp_version: 2" in complaint(accelerate=one, **given)
    for fits in (one | {"fsdp_version": 2}, {"config_file": FSDP2, "num_processes": 8}):
        launcher.check(tiny_student.recipe(accelerate=fits, **given))
    nf4 = {"micro_batch_size": 2, "lora": {"quantize": "nf4"}}
    assert "ZeRO-3 cannot shard the weights of train.lora.quantize" in complaint(accelerate=zero3, **nf4)


@pytest.mark.parametrize(("stage", "known"), [(2, False), (3, True)])
def test_only_where_the_weights_are_sharded_is_the_memory_estimated_as_sharded(
    stage: int, known: bool
) -> None:
    shape = {"parameters": 7_615_616_512, "layers": 28, "hidden": 3584, "intermediate": 18944}
    facts = ModelFacts(name="m", vocabulary=152064, **shape)
    train = Train(
        accelerate={"use_deepspeed": True, "zero_stage": stage, "num_processes": 8}, micro_batch_size=2
    )
    assert ("not estimated" not in fit.training(train, True, facts, None, ()).detail) == known
