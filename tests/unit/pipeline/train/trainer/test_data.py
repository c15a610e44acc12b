"""Order, weights and tokens of the training examples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.train import Train
from pipeline.errors import UserError
from tests import tiny_student

pytest.importorskip("trl")


def splits(folder: Path, measures: list[dict[str, Any]], **train: Any) -> Any:
    from pipeline.train.trainer import data

    rows = [tiny_student.example(n).model_copy(update=measure) for n, measure in enumerate(measures)]
    held_back = tiny_student.example(50, "validation")
    written = tiny_student.write_examples(folder / "examples.parquet", [*rows, held_back])
    (part,) = data.partition([written], 1)
    data.write_tokens(part, tiny_student.tokenizer(), folder / "tokens.arrow")
    return data.splits([folder / "tokens.arrow"], Train.model_validate(train))


def test_easy_first_sorts_by_pass_rate(tmp_path: Path) -> None:
    rates = [{"pass_rate": rate} for rate in (0.25, 1.0, 0.5, 1.0)]
    rows = splits(tmp_path, rates, order="easy_first")
    assert rows["train"]["id"] == ["p1-0", "p3-0", "p2-0", "p0-0"]
    assert rows["validation"]["id"] == ["p50-0"]


def test_short_first_sorts_by_length(tmp_path: Path) -> None:
    rows = splits(tmp_path, [{"tokens": n} for n in (90, 20, 50)], order="short_first")
    assert rows["train"]["id"] == ["p1-0", "p2-0", "p0-0"]


def test_an_order_without_its_column_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'train.order = "easy_first": 1 of 2 examples have no pass_rate'):
        splits(tmp_path, [{"pass_rate": 0.5}, {"pass_rate": None}], order="easy_first")


def test_weights_follow_the_teacher_s_confidence_with_mean_1(tmp_path: Path) -> None:
    sure = [{"confidence": math.log(p)} for p in (0.9, 0.3)]
    weights = splits(tmp_path, sure, weight_by="confidence")["train"]["weight"][:]
    assert weights == pytest.approx([1.5, 0.5])
    with pytest.raises(UserError, match=r"2 of 2 examples have no confidence; set generate.logprobs"):
        splits(tmp_path, [{}, {}], weight_by="confidence")


@pytest.mark.parametrize("template", ["plain", "opens"])
def test_tokens_and_labels_equal_those_of_trl(template: str, tmp_path: Path) -> None:
    import datasets
    from trl import SFTConfig, SFTTrainer

    from pipeline.train.trainer.loss_mask import tokens_of

    opens = tiny_student.CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
    tokenizer = tiny_student.tokenizer(opens if template == "opens" else tiny_student.CHATML)
    messages = [tiny_student.example(n).model_dump()["messages"] for n in range(4)]
    rows = [{"prompt": m[:-1], "completion": m[-1:]} for m in messages]
    config = SFTConfig(
        output_dir=str(tmp_path), completion_only_loss=True, max_length=None, use_cpu=True, bf16=False
    )
    trainer: Any = SFTTrainer(
        model=tiny_student.model(),
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    for ours, theirs in zip(tokens_of(rows, tokenizer), trainer.train_dataset, strict=True):
        for name in ("input_ids", "labels"):
            assert ours[name].tolist() == theirs[name]
