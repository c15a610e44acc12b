"""The loss of a step: averaged once over its tokens with loss, however it is laid out in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests import tiny_student

pytest.importorskip("trl")

ROWS = 4


def trainer(
    folder: Path, rows: list[dict[str, Any]], packing: bool = False, micro: int = ROWS, **settings: Any
) -> Any:
    import datasets
    from trl import SFTConfig

    from pipeline.train.trainer.trainer import CrossEntropy, StudentTrainer

    return StudentTrainer(
        objective=CrossEntropy(),
        model=tiny_student.model(),
        args=SFTConfig(
            output_dir=str(folder),
            max_length=None,
            padding_free=packing,
            per_device_train_batch_size=micro,
            per_device_eval_batch_size=micro,
            gradient_accumulation_steps=ROWS // micro,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tiny_student.tokenizer(pad_token="<|endoftext|>"),
        **settings,
    )


def rows() -> list[dict[str, Any]]:
    from pipeline.train.trainer.loss_mask import tokens_of

    tokenizer = tiny_student.tokenizer()
    made = []
    for n in range(ROWS):
        messages = tiny_student.example(n).model_dump()["messages"]
        messages[-1]["content"] += " and so on" * n  # of mixed length
        made.append({"prompt": messages[:-1], "completion": messages[-1:]})
    return [{name: ids.tolist() for name, ids in row.items()} for row in tokens_of(made, tokenizer)]


def step(it: Any, rows: list[dict[str, Any]]) -> tuple[float, Any]:
    """Loss and gradient of one optimizer step over all rows, in the trainer's micro batches."""
    import torch

    model = it.model.train()
    items = sum(sum(label != -100 for label in row["labels"]) for row in rows)
    micro, total = it.args.per_device_train_batch_size, 0.0
    for start in range(0, len(rows), micro):
        loss = it.compute_loss(model, it.data_collator(rows[start : start + micro]), num_items_in_batch=items)
        loss.backward()
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_the_loss_is_the_mean_of_the_model_s_own_loss_over_tokens(tmp_path: Path) -> None:
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
def test_packing_and_micro_batches_do_not_change_a_step(packing: bool, micro: int, tmp_path: Path) -> None:
    given = rows()
    loss, gradient = step(trainer(tmp_path, given), given)
    other_loss, other = step(trainer(tmp_path, given, packing, micro), given)
    assert other_loss == pytest.approx(loss, rel=1e-5)
    assert (gradient - other).norm() < 1e-4 * gradient.norm()


@pytest.mark.parametrize("packing", [True, False])
def test_a_weight_applies_to_each_token_of_its_example(packing: bool, tmp_path: Path) -> None:
    given = [row | {"weight": float(n == 2)} for n, row in enumerate(rows())]
    loss, gradient = step(trainer(tmp_path, given, packing), given)
    alone, expected = step(trainer(tmp_path, [given[2]], micro=1), [given[2] | {"weight": 1.0}])
    items = [sum(label != -100 for label in row["labels"]) for row in given]
    assert loss == pytest.approx(alone * items[2] / sum(items), rel=1e-5)
    assert (gradient - expected * items[2] / sum(items)).norm() < 1e-4 * gradient.norm()


def test_validation_is_unweighted_cross_entropy(tmp_path: Path) -> None:
    given = [row | {"weight": 5.0} for row in rows()]
    it = trainer(tmp_path, given)
    it.model.eval()
    assert it.compute_loss(it.model, it.data_collator(given)).item() == pytest.approx(
        step(it, rows())[0], rel=1e-5
    )


@pytest.mark.parametrize(("packing", "micro"), [(False, 4), (False, 3), (False, 1), (True, 3), (True, 4)])
def test_validation_is_a_mean_over_tokens_whatever_the_micro_batches(
    packing: bool, micro: int, tmp_path: Path
) -> None:
    import datasets

    given = rows()
    expected, _ = step(trainer(tmp_path, given), given)
    it = trainer(tmp_path, given, packing, micro, eval_dataset=datasets.Dataset.from_list(given))
    for _ in range(2):  # the first leaves nothing behind
        assert it.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_a_blank_batch_has_no_loss_and_no_tokens(fused: bool, packing: bool, tmp_path: Path) -> None:
    import torch
    from trl import SFTTrainer

    it = trainer(tmp_path, rows(), packing)
    batch = it.data_collator([blank_row(it)] * 3)
    it._track_num_input_tokens(batch)
    assert it.state.num_input_tokens_seen == 0
    model = it.model.train()
    if fused:  # as on a GPU
        batch.pop("extra")
        loss = SFTTrainer.compute_loss(it, model, batch, num_items_in_batch=100)
    else:
        loss = it.compute_loss(model, batch, num_items_in_batch=100)
    loss.backward()
    assert loss.item() == 0
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and torch.count_nonzero(g) == 0 for g in gradients)


def blank_row(it: Any) -> dict[str, Any]:
    from pipeline.train.trainer.padding import with_blank_rows

    row: dict[str, Any] = with_blank_rows(it.train_dataset, it.processing_class.pad_token_id, ROWS + 1)[ROWS]
    return row


def test_blank_rows_do_not_change_a_batch_of_examples(tmp_path: Path) -> None:
    it = trainer(tmp_path, rows())
    with_blank = it.data_collator([*rows()[:2], blank_row(it)])
    assert with_blank["input_ids"].equal(it.data_collator(rows()[:2])["input_ids"])


@pytest.mark.parametrize(("rows", "padded"), [(1, 4), (4, 4), (5, 8)])
def test_an_epoch_has_each_example_once_in_whole_steps(rows: int, padded: int, tmp_path: Path) -> None:
    import datasets

    given = [{"input_ids": [n + 1, 2], "labels": [-100, 2], "weight": 1.0} for n in range(rows)]
    it = trainer(tmp_path, given, micro=2, eval_dataset=datasets.Dataset.from_list(given))
    for dataset in (it.train_dataset, it.eval_dataset):
        assert dataset["input_ids"][:rows] == [row["input_ids"] for row in given]
        assert dataset["labels"][rows:] == [[-100, -100]] * (padded - rows)
    assert it.train_dataset.features == it.eval_dataset.features


@pytest.mark.parametrize("window", [None, 8])
def test_packed_documents_are_isolated_by_the_default_attention(
    window: int | None,
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from pipeline.train.trainer.attention import for_packing

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


@pytest.mark.parametrize("window", [None, 8])
def test_on_a_gpu_one_kernel_computes_all_packed_documents(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks shapes and arguments with fake tensors, without a GPU."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from pipeline.train.trainer import attention

    calls: list[Any] = []

    def recorded(*args: Any, **settings: Any) -> Any:
        calls.append(
            ([tuple(x.shape) for x in args[:3]], {x.dtype for x in args[:3]}, settings["window_size"])
        )
        return varlen(*args, **settings)

    varlen = attention.varlen_attn
    monkeypatch.setattr(attention, "varlen_attn", recorded)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")  # cannot be enabled here
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.bfloat16)
    with FakeTensorMode():
        query = torch.empty(1, 8, 50, 64, device="cuda")
        key, value = (torch.empty(1, 2, 50, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        ends = torch.empty(4, dtype=torch.int32, device="cuda")
        given = (torch.nn.Module(), query, key, value, None, ends, 20, window)
        made, _ = attention.attend(*given, scaling=0.125, dropout=0.0)
    assert (tuple(made.shape), made.dtype) == ((1, 50, 8, 64), torch.bfloat16)
    shapes, types, reach = calls[0]
    assert shapes == [(50, 8, 64), (50, 2, 64), (50, 2, 64)]
    assert types == {torch.bfloat16}
    assert reach == ((window - 1 if window else -1), 0)
