"""The estimate of GPU memory for training, against terms computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from pipeline.config.train import Optimizer, Train
from pipeline.train.memory import OPTIMIZER, Memory, Shape, disk, needed

SMALL = Shape(1_543_714_304, 28, 1536, 8960, 151_936, tied=True)  # Qwen2.5-1.5B
LARGE = Shape(7_615_616_512, 28, 3584, 18_944, 152_064)  # Qwen2.5-7B
GB = 1e9


def of(shape: Shape, gpus: int = 1, sharded: bool = False, teachers: Any = (), **train: Any) -> Memory:
    settings = {"micro_batch_size": 1, "max_length": 32768, "gradient_checkpointing": True} | train
    return needed(shape, Train(**settings), True, gpus, sharded, teachers)


def test_full_training_with_adam_takes_16_bytes_per_parameter_spread_over_the_gpus() -> None:
    shared = of(LARGE, 8, sharded=True)
    assert shared.weights + shared.gradients + shared.optimizer == 16 * LARGE.parameters / 8
    assert shared.checkpoints == 28 * 32768 * 3584 * 2
    assert 38 * GB < shared.total < 45 * GB


def test_data_parallelism_holds_gradients_twice_and_shards_nothing() -> None:
    copies = of(SMALL, 8)
    assert copies.weights == of(SMALL).weights == 4 * SMALL.parameters
    assert copies.gradients == 2 * of(SMALL).gradients == 8 * SMALL.parameters


def test_checkpoints_of_adapters_take_next_to_no_disk() -> None:
    assert disk(LARGE.parameters, Train()) == 40 * LARGE.parameters
    assert disk(LARGE.parameters, Train.model_validate({"lora": {"rank": 16}})) == 4 * LARGE.parameters


def test_8_bit_moments_keep_those_of_the_embeddings_in_float32() -> None:
    embeddings = 151_936 * 1536
    eight = of(SMALL, optimizer="adamw_8bit")
    assert eight.optimizer == 2 * (SMALL.parameters - embeddings) + 8 * embeddings
    assert of(SMALL).optimizer == 8 * SMALL.parameters


def test_an_8_bit_optimizer_decides_whether_a_student_fits_on_24_gb() -> None:
    sizes: dict[str, Any] = {"max_length": 2048, "micro_batch_size": 2}
    assert of(SMALL, **sizes).total > 30 * GB
    assert of(SMALL, optimizer="adamw_8bit", **sizes).total < 23 * GB


@pytest.mark.parametrize(
    "settings", [{"objective": "topk_kd"}, {"objective": "logit_kd"}, {"weight_by": "confidence"}], ids=str
)
def test_no_loss_holds_all_logits_of_a_micro_batch(settings: dict[str, Any]) -> None:
    logits = 2 * 32768 * 152_064
    for sharded in (False, True):
        assert of(LARGE, 8, sharded, (32_000_000_000,), **settings).loss < 8 * GB < logits


def test_a_white_box_term_keeps_the_states_of_its_layers() -> None:
    states = 6 * 32768 * 3584
    assert of(LARGE).terms == 0
    assert of(LARGE, features={}).terms == 28 * states
    assert of(LARGE, features={"layers": [[14, 30]]}).terms == states
    assert of(LARGE, attention_transfer={"layers": [[14, 30], [28, 64]]}).terms == 6 * states


def test_only_adapters_have_gradients_and_a_4_bit_base_is_smaller() -> None:
    plain, small = of(LARGE, lora={"rank": 16}), of(LARGE, lora={"rank": 16, "quantize": "nf4"})
    assert plain.gradients < 0.5 * GB
    assert 15 * GB < plain.weights < 16 * GB
    assert 5 * GB < small.weights < 6.5 * GB


def test_teachers_are_sharded_like_the_student() -> None:
    for sharded, size in ((True, 14 * GB / 8), (False, 14 * GB)):
        assert of(SMALL, 8, sharded, (7_000_000_000,), objective="logit_kd").teachers == size


def test_every_optimizer_of_a_recipe_is_known() -> None:
    assert set(get_args(Optimizer)) <= set(OPTIMIZER)


@pytest.mark.parametrize("name", ["adamw_torch", "adagrad", "sgd", "adafactor"])
def test_an_optimizer_that_trl_is_given_takes_the_bytes_that_torch_takes(name: str, tmp_path: Path) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), optim=name, use_cpu=True)
    kind, options = transformers.Trainer.get_optimizer_cls_and_kwargs(arguments)
    weight = torch.nn.Parameter(torch.zeros(512, 512))
    weight.grad = torch.ones_like(weight)
    made = kind([weight], **options)
    made.step()
    state = sum(each.nbytes for each in made.state[weight].values() if torch.is_tensor(each))
    assert state / weight.numel() == pytest.approx(OPTIMIZER[name], abs=0.02)
    assert of(SMALL, trl={"optim": name}).optimizer == OPTIMIZER[name] * SMALL.parameters
