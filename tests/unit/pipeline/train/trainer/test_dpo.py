"""DPO with TRL's trainer on pairs that the preflight tokenized."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.train import launcher
from tests import tiny_student
from tests.unit.pipeline.train.trainer.test_redi import PAIRS, pairs

pytest.importorskip("trl")


def built(folder: Path, rows: list[dict[str, Any]], dpo: dict[str, Any], **arguments: Any) -> Any:
    import datasets

    from pipeline.train.trainer import dpo as module
    from pipeline.train.trainer.trainer import Setup

    given: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 2,
        "per_device_train_batch_size": PAIRS,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 1,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 3,
    }
    split = {"train": datasets.Dataset.from_list([row | {"id": str(n)} for n, row in enumerate(rows)])}
    tokenizer = tiny_student.tokenizer(pad_token="<|endoftext|>")
    job = tiny_student.job(folder, dpo=dpo)
    return module.build(Setup(job, split, tiny_student.model(), tokenizer, 2, given | arguments))


def losses(it: Any) -> list[float]:
    it.train()
    return [line["loss"] for line in it.state.log_history if "loss" in line]


def test_prompt_and_answers_are_the_tokens_and_masks_of_the_preflight() -> None:
    import datasets

    from pipeline.train.trainer.dpo import as_pairs

    rows = pairs()
    for row, pair in zip(rows, as_pairs(datasets.Dataset.from_list(rows)), strict=True):
        assert pair["prompt_ids"] + pair["chosen_ids"] == row["input_ids"]
        assert pair["prompt_ids"] + pair["rejected_ids"] == row["rejected_input_ids"]
        assert len(pair["chosen_ids"]) == sum(label != -100 for label in row["labels"])
    other = [rows[0] | {"id": "a", "rejected_input_ids": [5, *rows[0]["rejected_input_ids"][1:]]}]
    with pytest.raises(UserError, match=r"example a: .* renders its prompt differently"):
        as_pairs(datasets.Dataset.from_list(other))


@pytest.mark.parametrize(
    ("settings", "first"),
    [({}, math.log(2)), ({"loss": "ipo", "beta": 0.5}, 1.0), ({"loss": "sigmoid_norm"}, math.log(2))],
)
def test_the_first_loss_is_that_of_equal_models_and_the_second_is_lower(
    settings: dict[str, Any], first: float, tmp_path: Path
) -> None:
    found = losses(built(tmp_path, pairs(), settings))
    assert found[0] == pytest.approx(first, rel=1e-3)
    assert found[1] < found[0]


def test_a_dropout_that_trl_turns_off_is_refused() -> None:
    def check(**train: Any) -> None:
        given = tiny_student.recipe(objective="dpo", lora={"dropout": 0.1}, **train)
        select = given.select.model_copy(update={"rejected": True})
        launcher.check(given.model_copy(update={"select": select}))

    with pytest.raises(UserError, match=r"train\.lora\.dropout has no effect"):
        check()
    check(trl={"disable_dropout": False})


def test_one_and_two_micro_batches_make_equal_steps(tmp_path: Path) -> None:
    whole = built(tmp_path / "a", pairs(), {})
    halves = built(tmp_path / "b", pairs(), {}, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert losses(whole) == pytest.approx(losses(halves), rel=1e-3)


@pytest.mark.alone
def test_a_resumed_training_keeps_its_reference_model(tmp_path: Path) -> None:
    import torch

    whole = built(tmp_path / "whole", pairs(), {"sft_weight": 0.2})
    whole.train()
    built(tmp_path / "cut", pairs(), {"sft_weight": 0.2}, max_steps=1).train()
    resumed = built(tmp_path / "cut", pairs(), {"sft_weight": 0.2})
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-1"))
    for name, weight in whole.model.state_dict().items():
        assert torch.allclose(weight, resumed.model.state_dict()[name], atol=1e-6), name
