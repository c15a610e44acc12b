"""The loss of a step: only supervised tokens, divided once, however the step lies in memory."""

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

    from pipeline.train.trainer.trainer import StudentTrainer, Text

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
    from pipeline.train.trainer.data import tokens_of

    tokenizer = tiny_student.tokenizer()
    made = []
    for n in range(ROWS):
        messages = tiny_student.example(n).model_dump()["messages"]
        messages[-1]["content"] += " and so on" * n  # of mixed length
        made.append({"prompt": messages[:-1], "completion": messages[-1:]})
    return [{name: ids.tolist() for name, ids in row.items()} for row in tokens_of(made, tokenizer)]


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


@pytest.mark.parametrize(("packing", "micro"), [(False, 4), (False, 3), (False, 1), (True, 3), (True, 4)])
def test_the_loss_of_a_validation_is_that_of_a_token_however_it_lies_in_memory(
    packing: bool, micro: int, tmp_path: Path
) -> None:
    import datasets

    given = rows()
    expected, _ = step(trainer(tmp_path, given), given)
    it = trainer(tmp_path, given, packing, micro, eval_dataset=datasets.Dataset.from_list(given))
    for _ in range(2):  # nothing is left of the first
        assert it.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("fused", [True, False])
def test_a_batch_of_filling_teaches_nothing_and_counts_no_token(
    fused: bool, packing: bool, tmp_path: Path
) -> None:
    import torch
    from trl import SFTTrainer

    it = trainer(tmp_path, rows(), packing)
    blank = it.train_dataset[ROWS]
    batch = it.data_collator([blank] * 3)
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


def test_filling_beside_examples_leaves_the_batch_as_it_was(tmp_path: Path) -> None:
    it = trainer(tmp_path, rows())
    with_filling = it.data_collator([*rows()[:2], it.train_dataset[ROWS]])
    assert with_filling["input_ids"].equal(it.data_collator(rows()[:2])["input_ids"])


@pytest.mark.parametrize(("processes", "order"), [(1, 45), (2, 48), (4, 48)])
def test_an_epoch_has_each_example_once_and_is_filled_at_its_end_alone(processes: int, order: int) -> None:
    from pipeline.train.trainer.padding import Filled

    for seed in (7, None):
        sampler = Filled(45, 4 * processes if processes > 1 else 1, seed)
        epochs = []
        for epoch in range(2):
            sampler.set_epoch(epoch)
            epochs.append(list(sampler))
        for seen in epochs:
            assert len(seen) == len(sampler) == order
            assert sorted(seen[:45]) == list(range(45))
            assert set(seen[45:]) <= {45}
        assert (epochs[0] == epochs[1]) == (seed is None)


@pytest.mark.parametrize("window", [None, 8])
def test_packed_documents_attend_to_themselves_alone_with_the_attention_that_packing_takes(
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
def test_on_a_gpu_one_kernel_takes_all_packed_documents(
    window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By shapes and arguments alone, which fake tensors check without a GPU."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from pipeline.train.trainer import attention

    asked: list[Any] = []

    def watched(*args: Any, **settings: Any) -> Any:
        asked.append(
            ([tuple(x.shape) for x in args[:3]], {x.dtype for x in args[:3]}, settings["window_size"])
        )
        return varlen(*args, **settings)

    varlen = attention.varlen_attn
    monkeypatch.setattr(attention, "varlen_attn", watched)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")  # there is none to enable
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda kind: torch.bfloat16)
    with FakeTensorMode():
        query = torch.empty(1, 8, 50, 64, device="cuda")
        key, value = (torch.empty(1, 2, 50, 64, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        ends = torch.empty(4, dtype=torch.int32, device="cuda")
        given = (torch.nn.Module(), query, key, value, None, ends, 20, window)
        made, _ = attention.attend(*given, scaling=0.125, dropout=0.0)
    assert (tuple(made.shape), made.dtype) == ((1, 50, 8, 64), torch.bfloat16)
    shapes, types, reach = asked[0]
    assert shapes == [(50, 8, 64), (50, 2, 64), (50, 2, 64)]
    assert types == {torch.bfloat16}
    assert reach == ((window - 1 if window else -1), 0)
