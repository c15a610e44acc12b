"""The loss of a step: only supervised tokens, divided once, however the step lies in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import tiny_student

pytest.importorskip("trl")

ROWS = 4


def trainer(folder: Path, rows: list[dict[str, Any]], packing: bool = False, micro: int = ROWS) -> Any:
    import datasets
    from trl import SFTConfig

    from pipeline.training.trainer import StudentTrainer, Text

    text = Text()
    return StudentTrainer(
        objective=text,
        text=text,
        model=tiny_student.model(),
        args=SFTConfig(
            output_dir=str(folder),
            max_length=None,
            padding_free=packing,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=ROWS // micro,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tiny_student.tokenizer(pad_token="<|endoftext|>"),
    )


def rows() -> list[dict[str, Any]]:
    from pipeline.training.data import tokens_of

    tokenizer = tiny_student.tokenizer()
    made = []
    for n in range(ROWS):
        messages = tiny_student.example(n).model_dump()["messages"]
        messages[-1]["content"] += " and so on" * n  # of mixed length
        made.append(tokens_of({"prompt": messages[:-1], "completion": messages[-1:]}, tokenizer))
    return made


def step(it: Any, rows: list[dict[str, Any]]) -> tuple[float, Any]:
    """Loss and gradient of one optimizer step over all rows, in micro batches as the trainer has them."""
    import torch

    model = it.model.train()
    items = sum(sum(label != -100 for label in row["labels"]) for row in rows)
    micro, total = it.args.per_device_train_batch_size, 0.0
    for start in range(0, len(rows), micro):
        loss = it.compute_loss(model, it.data_collator(rows[start : start + micro]), num_items_in_batch=items)
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_the_loss_is_the_mean_of_the_supervised_tokens_as_the_model_itself_computes_it(
    tmp_path: Path,
) -> None:
    import torch

    given = rows()
    ours, _ = step(trainer(tmp_path, given), given)
    model, total, tokens = tiny_student.model(), 0.0, 0
    for row in given:
        ids, labels = (torch.tensor([row[name]]) for name in ("input_ids", "labels"))
        count = int((labels != -100).sum())
        total += model(input_ids=ids, labels=labels).loss.item() * count
        tokens += count
    assert ours == pytest.approx(total / tokens, rel=1e-5)


@pytest.mark.parametrize(("packing", "micro"), [(True, 4), (True, 2), (False, 2), (False, 1)])
def test_a_step_is_the_same_packed_or_padded_in_one_micro_batch_or_several(
    packing: bool, micro: int, tmp_path: Path
) -> None:
    given = rows()
    loss, gradient = step(trainer(tmp_path, given), given)
    other_loss, other = step(trainer(tmp_path, given, packing, micro), given)
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert (gradient - other).norm() < 1e-4 * gradient.norm()


@pytest.mark.parametrize("packing", [True, False])
def test_weights_count_each_token_of_their_example(packing: bool, tmp_path: Path) -> None:
    given = [row | {"weight": float(n == 2)} for n, row in enumerate(rows())]
    loss, gradient = step(trainer(tmp_path, given, packing), given)
    alone, expected = step(trainer(tmp_path, [given[2]], micro=1), [given[2] | {"weight": 1.0}])
    items = [sum(label != -100 for label in row["labels"]) for row in given]
    assert loss == pytest.approx(alone * items[2] / sum(items), rel=1e-5)
    assert (gradient - expected * items[2] / sum(items)).norm() < 1e-4 * gradient.norm()


def test_validation_is_the_cross_entropy_and_knows_no_weights(tmp_path: Path) -> None:
    given = [row | {"weight": 5.0} for row in rows()]
    it = trainer(tmp_path, given)
    it.model.eval()
    assert it.compute_loss(it.model, it.data_collator(given)).item() == pytest.approx(
        step(it, rows())[0], rel=1e-5
    )


@pytest.mark.parametrize("window", [None, 8])
def test_packed_documents_attend_to_themselves_alone_with_the_attention_that_packing_takes(
    window: int | None,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from pipeline.training.attention import for_packing

    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 259}
    config = MistralConfig(sliding_window=window, **sizes) if window else LlamaConfig(**sizes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=for_packing())
    packed = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows())
    packed.pop("labels")
    together = model(**packed, use_cache=False).logits[0]
    for row, logits in zip(rows(), together.split([len(row["input_ids"]) for row in rows()]), strict=True):
        alone = model(input_ids=torch.tensor([row["input_ids"]]), use_cache=False).logits[0]
        assert torch.allclose(alone, logits, atol=1e-5)
