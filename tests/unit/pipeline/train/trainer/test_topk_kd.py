"""Top-k labels: what the teacher said of the student's own tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.arrow_schema import arrow_schema
from pipeline.config.train import TopkKD
from pipeline.errors import UserError
from pipeline.rows import SoftLabels
from tests import tiny_student

pytest.importorskip("trl")

K, VOCABULARY = 3, 259


def learned_tokens(number: int) -> list[int]:
    """The tokens of an example that have loss: its answer, the end of a turn and a line break."""
    tokenizer = tiny_student.tokenizer()
    return [*tokenizer.encode(tiny_student.example(number).messages[-1].content), 2, *tokenizer.encode("\n")]


def soft_labels(number: int, k: int = K, **changed: Any) -> SoftLabels:
    """The token itself with 0.7, the next ids with 0.2 and 0.05."""
    tokens = learned_tokens(number)
    fields: dict[str, Any] = {
        "k": k,
        "tokens": tokens,
        "logprobs": [-0.35667] * len(tokens),
        "top_tokens": [(token + n) % VOCABULARY for token in tokens for n in range(k)],
        "top_logprobs": [-0.35667, -1.60944, -2.99573][:k] * len(tokens),
    }
    counts = {"prompt_tokens": 9, "completion_tokens": 1}
    return SoftLabels(id=f"p{number}-0", digest="", **counts, **(fields | changed))


def unread(number: int) -> SoftLabels:
    nothing: dict[str, Any] = dict.fromkeys(("tokens", "logprobs", "top_tokens", "top_logprobs"), ())
    return soft_labels(number, **nothing, error="HTTP 500")


def write(path: Path, labels: list[SoftLabels]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([row.model_dump() for row in labels], schema=arrow_schema(SoftLabels))
    pq.write_table(table, path, row_group_size=2)
    return path


def rows(numbers: range) -> Any:
    """Examples tokenized as for training: the completion and its end of turn have loss."""
    import datasets

    made = []
    for number in numbers:
        prompt, learned = [1, *tiny_student.tokenizer().encode(f"question {number}")], learned_tokens(number)
        labels = [-100] * len(prompt) + learned
        made.append({"id": f"p{number}-0", "split": "train", "input_ids": prompt + learned, "labels": labels})
    return datasets.Dataset.from_list(made)


def labeled(tmp_path: Path, labels: list[SoftLabels], numbers: range) -> Any:
    from pipeline.train.trainer import topk_kd

    half = len(labels) // 2
    files = [write(tmp_path / "a.parquet", labels[:half]), write(tmp_path / "b.parquet", labels[half:])]
    made = topk_kd.add_labels(rows(numbers), files, VOCABULARY, tmp_path / "scratch")
    topk_kd.check(*topk_kd.counts(made, 512))
    return made


def test_each_token_with_loss_gets_the_teacher_s_top_k(tmp_path: Path) -> None:
    made = labeled(tmp_path, [soft_labels(n) for n in range(6)], range(1, 4))
    for number, row in enumerate(made, 1):
        wanted = learned_tokens(number)
        top = [row["topk_tokens"][at : at + K] for at in range(0, len(row["topk_tokens"]), K)]
        assert top == [[(token + n) % VOCABULARY for n in range(K)] for token in wanted]
        assert row["labeled_tokens"] == row["loss_tokens"] == len(wanted)


def test_labels_of_other_tokens_are_refused(tmp_path: Path) -> None:
    other = soft_labels(1, tokens=[*learned_tokens(1)[:-1], 77])
    with pytest.raises(UserError, match="example p1-0: its soft labels are of other tokens"):
        labeled(tmp_path, [other], range(1, 2))


def test_an_example_that_the_teacher_did_not_read_has_no_labels(tmp_path: Path) -> None:
    made = labeled(tmp_path, [soft_labels(0), unread(1), soft_labels(2)], range(3))
    assert [row["labeled_tokens"] for row in made] == [len(learned_tokens(0)), 0, len(learned_tokens(2))]


def test_examples_of_a_shard_without_any_label_have_none(tmp_path: Path) -> None:
    from pipeline.train.trainer import topk_kd

    (scratch := tmp_path / "scratch").mkdir()
    none = write(tmp_path / "a.parquet", [])  # as where all of them are held back for validation
    made = topk_kd.add_labels(rows(range(2)), [none], VOCABULARY, scratch)
    assert made["labeled_tokens"][:] == [0, 0]


def test_too_few_labels_are_refused_with_their_share(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"topk_kd: 2\d\.\d% of .* 50% are needed: lower generate.max_failed"):
        labeled(tmp_path, [soft_labels(0), *(unread(n) for n in range(1, 4))], range(4))


def test_a_token_that_the_student_lacks_is_named(tmp_path: Path) -> None:
    kept = soft_labels(1)
    beyond = kept.model_copy(update={"top_tokens": (*kept.top_tokens[:-1], VOCABULARY)})
    with pytest.raises(UserError, match="example p1-0: its teacher named token 259, and the student has 259"):
        labeled(tmp_path, [beyond], range(1, 2))


def test_positions_without_a_valid_distribution_get_no_label(tmp_path: Path) -> None:
    kept = soft_labels(1)
    tokens, values = list(kept.top_tokens), list(kept.top_logprobs)
    tokens[1] = tokens[0]  # repeated
    values[K] = values[K + 1] = -0.1  # sum to more than 1
    tokens[2 * K + 2] = -1  # fewer than K: valid
    spoiled = kept.model_copy(update={"top_tokens": tuple(tokens), "top_logprobs": tuple(values)})
    row = labeled(tmp_path, [spoiled], range(1, 2))[0]
    assert [row["topk_tokens"][at * K] >= 0 for at in range(4)] == [False, False, True, True]


def test_a_batch_concatenates_the_labels_of_its_rows(tmp_path: Path) -> None:
    import torch

    from pipeline.train.trainer import topk_kd

    made = labeled(tmp_path, [soft_labels(0), unread(1), soft_labels(2)], range(3))
    objective = topk_kd.TopkKDObjective(TopkKD(alpha=0.5))
    extra = objective.collate(list(made), {})
    targets = torch.tensor([token for n in range(3) for token in learned_tokens(n)])
    assert extra["topk_tokens"].shape == extra["topk_logprobs"].shape == (len(targets), K)
    found = extra["topk_tokens"][:, 0]
    assert (found[found >= 0] == targets[found >= 0]).all()
    assert (found < 0).sum() == len(learned_tokens(1))


def test_tokens_without_a_label_have_plain_cross_entropy(tmp_path: Path) -> None:
    import torch

    from pipeline.train.trainer import losses, topk_kd
    from pipeline.train.trainer.heads import Head
    from pipeline.train.trainer.trainer import SupervisedTokens

    made = labeled(tmp_path, [soft_labels(0), unread(1)], range(2))
    objective = topk_kd.TopkKDObjective(TopkKD(alpha=0.8, temperature=2))
    extra = objective.collate(list(made), {})
    targets = torch.tensor([token for n in range(2) for token in learned_tokens(n)])
    logits = torch.randn(len(targets), VOCABULARY)
    identity = Head(torch.eye(VOCABULARY), None)  # hidden states that are logits
    loss = objective(SupervisedTokens(logits, identity, targets, [], extra))
    ce = losses.cross_entropy(logits, targets)
    kl = losses.topk_kl(logits, extra["topk_tokens"], extra["topk_logprobs"], 2)
    read = len(learned_tokens(0))
    torch.testing.assert_close(loss[read:], ce[read:])
    torch.testing.assert_close(loss[:read], (0.8 * 4 * kl + 0.2 * ce)[:read])
