"""REDI against a plain definition in float64, for any layout of the pairs in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import tiny_student

pytest.importorskip("trl")

PAIRS, ALPHA = 4, 0.8


def pairs() -> list[dict[str, Any]]:
    """Tokenized pairs whose traces have different lengths."""
    from pipeline.train.trainer.data import REJECTED
    from pipeline.train.trainer.loss_mask import tokens_of

    tokenizer, rows = tiny_student.tokenizer(), []
    for n in range(PAIRS):
        example = tiny_student.example(n, paired=True).model_dump()
        prompt = example["messages"][:-1]
        answers = [example["messages"][-1]["content"], example["rejected"] + " and so on" * n]
        given = [{"prompt": prompt, "completion": [{"role": "assistant", "content": a}]} for a in answers]
        chosen, rejected = tokens_of(given, tokenizer)
        row = {name: ids.tolist() for name, ids in chosen.items()}
        rows.append(row | {f"{REJECTED}{name}": ids.tolist() for name, ids in rejected.items()})
    return rows


def trainer(folder: Path, rows: list[dict[str, Any]], packing: bool, micro: int, **settings: Any) -> Any:
    import datasets
    from trl import SFTConfig

    from pipeline.train.trainer.redi import OfPairs, RediTrainer

    arguments: dict[str, Any] = {"per_device_eval_batch_size": micro, "use_cpu": True, "bf16": False}
    return RediTrainer(
        alpha=ALPHA,
        objective=OfPairs(),
        model=tiny_student.model(),
        args=SFTConfig(
            output_dir=str(folder),
            max_length=None,
            padding_free=packing,
            per_device_train_batch_size=micro,
            gradient_accumulation_steps=PAIRS // micro,
            gradient_checkpointing=False,
            report_to="none",
            **arguments,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tiny_student.tokenizer(pad_token="<|endoftext|>"),
        **settings,
    )


def step(it: Any, rows: list[dict[str, Any]]) -> tuple[float, Any]:
    """Loss and gradient of one optimizer step over all pairs, in the trainer's micro batches."""
    import torch

    micro, model = it.args.per_device_train_batch_size, it.model.train()
    batches = [it.data_collator(rows[start : start + micro]) for start in range(0, len(rows), micro)]
    items = it._get_num_items_in_batch(batches, it.args.device)
    total = 0.0
    for batch in batches:
        loss = it.compute_loss(model, batch, num_items_in_batch=items)
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def defined(rows: list[dict[str, Any]]) -> tuple[float, Any]:
    """The formula of arXiv 2505.24850, one text after the other, in float64."""
    import torch

    model = tiny_student.model().double()

    def mean_logp(ids: list[int], labels: list[int]) -> Any:
        logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
        logps = logits.log_softmax(-1)
        own = [logps[at, label] for at, label in enumerate(labels[1:]) if label != -100]
        return torch.stack(own).mean()

    losses = [
        -mean_logp(row["input_ids"], row["labels"])
        + ALPHA * mean_logp(row["rejected_input_ids"], row["rejected_labels"])
        for row in rows
    ]
    loss = torch.stack(losses).mean()
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(("packing", "micro"), [(False, 4), (False, 2), (False, 1), (True, 4), (True, 2)])
def test_loss_and_gradient_equal_the_definition(packing: bool, micro: int, tmp_path: Path) -> None:
    given = pairs()
    expected, gradient = defined(given)
    loss, own = step(trainer(tmp_path, given, packing, micro), given)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert (own.double() - gradient).norm() < 1e-4 * gradient.norm()


def test_blank_rows_count_for_nothing(tmp_path: Path) -> None:
    """Four pairs in micro batches of three: two blank rows fill the last one."""
    given = pairs()
    it = trainer(tmp_path, given, False, 3)
    filled = [it.train_dataset[n] for n in range(len(it.train_dataset))]
    assert len(filled) == 6
    assert step(it, filled)[0] == pytest.approx(defined(given)[0], rel=1e-4)


def test_validation_is_cross_entropy_on_kept_traces(tmp_path: Path) -> None:
    import datasets

    given = pairs()
    kept = datasets.Dataset.from_list(given).select_columns(["input_ids", "labels"])
    it = trainer(tmp_path, given, False, 2, eval_dataset=kept)
    model, total, tokens = tiny_student.model().double(), 0.0, 0
    import torch

    for row in kept:
        count = sum(label != -100 for label in row["labels"])
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        total += model(input_ids=ids, labels=labels).loss.item() * count
        tokens += count
    assert it.evaluate()["eval_loss"] == pytest.approx(total / tokens, rel=1e-4)


def test_a_training_steps_as_the_definition_says(tmp_path: Path) -> None:
    """The whole loop of transformers: it counts the pairs and logs the loss of the definition."""
    given = pairs()
    it = trainer(tmp_path, given, False, 2)
    it.args.max_steps = it.args.logging_steps = 1
    it.train()
    logged = next(line["loss"] for line in it.state.log_history if "loss" in line)
    assert logged == pytest.approx(defined(given)[0], rel=1e-3)
