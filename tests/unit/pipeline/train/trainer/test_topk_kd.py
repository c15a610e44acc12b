"""Top-k labels: stored log-probabilities of the teacher, aligned with the student's tokens."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.arrow_schema import arrow_schema
from pipeline.config.train import TopkKD
from pipeline.errors import UserError
from pipeline.rows import Logprobs, Sampling, Trace
from tests import tiny_student

pytest.importorskip("trl")

K, VOCABULARY = 3, 259


def sampled_tokens(text: str) -> list[int]:
    """The teacher's tokens for a text: its bytes in the tiny tokenizer, then the end of a turn."""
    return [*tiny_student.tokenizer().encode(text), 2]


def logprobs(tokens: list[int], k: int = K) -> Logprobs:
    """The sampled token with 0.7, the next ids with 0.2 and 0.05."""
    shares = [-0.35667, -1.60944, -2.99573][:k]
    return Logprobs(
        k=k,
        reasoning_tokens=0,
        tokens=tuple(tokens),
        logprobs=tuple(-0.35667 for _ in tokens),
        top_tokens=tuple((token + n) % VOCABULARY for token in tokens for n in range(k)),
        top_logprobs=tuple(shares * len(tokens)),
    )


def trace(name: str, kept: Logprobs | None) -> Trace:
    return Trace(
        question="?",
        reference=None,
        answer_type="number",
        source="sums",
        id=name,
        problem_id=name,
        sample=0,
        teacher="counting",
        prompt="plain",
        prompt_hash="",
        sampling=Sampling(temperature=0.6, top_p=1, max_tokens=9),
        seed=0,
        reasoning="",
        response="",
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=1,
        logprobs=kept,
    )


def write(path: Path, traces: list[Trace]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pylist([t.model_dump() for t in traces], schema=arrow_schema(Trace))
    pq.write_table(table, path, row_group_size=2)
    return path


def answer(number: int) -> str:
    return tiny_student.example(number).messages[-1].content


def rows(numbers: range) -> Any:
    """Examples tokenized as TRL does: the completion and its end of turn have loss."""
    import datasets

    made = []
    for number in numbers:
        prompt = sampled_tokens(f"question {number}")
        learned = [*sampled_tokens(answer(number)), *tiny_student.tokenizer().encode("\n")]
        labels = [-100] * len(prompt) + learned
        made.append({"id": f"p{number}-0", "input_ids": prompt + learned, "labels": labels})
    return datasets.Dataset.from_list(made)


def labeled(tmp_path: Path, traces: list[Trace], numbers: range) -> Any:
    from pipeline.train.trainer import topk_kd

    half = len(traces) // 2
    files = [write(tmp_path / "a.parquet", traces[:half]), write(tmp_path / "b.parquet", traces[half:])]
    made = topk_kd.add_labels(rows(numbers), files, VOCABULARY, tmp_path / "scratch")
    topk_kd.check(*topk_kd.counts(made))
    return made


def test_each_token_gets_the_teacher_s_top_k(tmp_path: Path) -> None:
    from pipeline.train.trainer import topk_kd

    others = [trace(f"p{n}-0", None) for n in range(90, 93)]
    made = labeled(
        tmp_path,
        [*others, *(trace(f"p{n}-0", logprobs(sampled_tokens(answer(n)))) for n in range(4))],
        range(4),
    )
    for row in made:
        wanted = topk_kd.loss_tokens(row).tolist()
        top = [row["topk_tokens"][at : at + K] for at in range(0, len(row["topk_tokens"]), K)]
        assert top[:-1] == [[(token + n) % VOCABULARY for n in range(K)] for token in wanted[:-1]]
        assert top[-1] == [-1] * K  # the line break after the end of a turn, which no teacher samples
        assert (row["labeled_tokens"], row["loss_tokens"]) == (len(wanted) - 1, len(wanted))
    matched, tokens = topk_kd.counts(made)
    assert 0.9 < matched / tokens < 1


def test_differing_white_space_and_tags_lose_only_their_own_labels(tmp_path: Path) -> None:
    from pipeline.train.trainer import topk_kd

    raw = answer(1).removeprefix("<think>\n").replace("\n</think>\n\n", " </think>\n") + "\n\n"
    made = labeled(tmp_path, [trace("p1-0", logprobs(sampled_tokens(raw)))], range(1, 2))
    text = tiny_student.tokenizer()
    row = made[0]
    wanted = topk_kd.loss_tokens(row).tolist()
    found = [token for at, token in enumerate(wanted) if row["topk_tokens"][at * K] >= 0]
    assert {row["topk_tokens"][at * K] for at in range(len(wanted))} - set(wanted) <= {-1}
    assert text.decode(found).startswith("Count 1 up from 2.</think>\n")
    assert "\\boxed{3}" in text.decode(found)


def test_a_response_without_reasoning_is_aligned_after_the_reasoning(tmp_path: Path) -> None:
    import datasets

    from pipeline.train.trainer import topk_kd

    reasoning, response = f"<think>\n{'Count on. ' * 200}\n</think>\n\n", "So it is 3."
    said = logprobs(sampled_tokens(reasoning + response)).model_copy(
        update={"reasoning_tokens": len(reasoning)}
    )
    file = write(tmp_path / "a.parquet", [trace("p1-0", said)])
    learned = sampled_tokens(response)
    row = {"id": "p1-0", "input_ids": [1, *learned], "labels": [-100, *learned]}
    made = topk_kd.add_labels(
        datasets.Dataset.from_list([row]), [file], VOCABULARY, tmp_path / "cache", False
    )
    assert made[0]["labeled_tokens"] == made[0]["loss_tokens"] == len(learned)


def test_a_long_text_is_aligned_across_insertions_and_deletions() -> None:
    import numpy as np

    from pipeline.train.trainer.topk_kd import align

    chance = random.Random(0)
    sampled = [chance.randrange(50) for _ in range(30_000)]
    wanted = sampled[7:9_000] + [60] * 20 + sampled[9_040:]
    at = align(np.array(wanted), np.array(sampled))
    true = [*range(7, 9_000), *[-1] * 20, *range(9_040, 30_000)]
    agree = [found == expected for found, expected in zip(at.tolist(), true, strict=True)]
    assert sum(agree) > len(wanted) - 40
    assert all(wanted[n] == sampled[found] for n, found in enumerate(at.tolist()) if found >= 0)


def test_texts_without_a_match_are_aligned_quickly() -> None:
    import numpy as np

    from pipeline.train.trainer.topk_kd import align

    assert (align(np.zeros(20_000, int), np.ones(20_000, int)) == -1).all()
    assert align(np.zeros(0, int), np.ones(3, int)).tolist() == []
    assert align(np.ones(3, int), np.zeros(0, int)).tolist() == [-1] * 3


def test_traces_without_logprobs_are_rejected_with_the_setting_to_change(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0.0% of the tokens with loss .* set generate.logprobs = 20"):
        labeled(tmp_path, [trace(f"p{n}-0", None) for n in range(4)], range(4))


def test_logprobs_of_sampled_tokens_alone_are_no_labels(tmp_path: Path) -> None:
    means_only = [trace(f"p{n}-0", logprobs(sampled_tokens(answer(n)), k=0)) for n in range(2)]
    with pytest.raises(UserError, match=r"set generate.logprobs = 20"):
        labeled(tmp_path, means_only, range(2))


def test_another_tokenizer_is_rejected_with_the_fraction_that_matched(tmp_path: Path) -> None:
    others = [
        trace(f"p{n}-0", logprobs([t * 2 % VOCABULARY for t in sampled_tokens(answer(n))])) for n in range(4)
    ]
    ours = [trace("p4-0", logprobs(sampled_tokens(answer(4))))]
    with pytest.raises(UserError, match=r"topk_kd: 1\d\.\d% of .* 50% are needed: the teacher needs"):
        labeled(tmp_path, [*others, *ours], range(5))


def test_a_token_that_the_student_lacks_is_named(tmp_path: Path) -> None:
    kept = logprobs(sampled_tokens(answer(1)))
    beyond = kept.model_copy(update={"top_tokens": (*kept.top_tokens[:-1], VOCABULARY)})
    with pytest.raises(UserError, match="example p1-0: its teacher named token 259, and the student has 259"):
        labeled(tmp_path, [trace("p1-0", beyond)], range(1, 2))


def test_positions_without_a_valid_distribution_get_no_label(tmp_path: Path) -> None:
    kept = logprobs(sampled_tokens(answer(1)))
    tokens, values = list(kept.top_tokens), list(kept.top_logprobs)
    tokens[1] = tokens[0]  # repeated
    values[K] = values[K + 1] = -0.1  # sum to more than 1
    tokens[2 * K + 2] = -1  # fewer than K: valid
    spoiled = kept.model_copy(update={"top_tokens": tuple(tokens), "top_logprobs": tuple(values)})
    row = labeled(tmp_path, [trace("p1-0", spoiled)], range(1, 2))[0]
    assert [row["topk_tokens"][at * K] >= 0 for at in range(4)] == [False, False, True, True]


def test_a_batch_concatenates_the_labels_of_its_rows(tmp_path: Path) -> None:
    import torch

    from pipeline.train.trainer import topk_kd

    made = labeled(
        tmp_path,
        [
            trace("p0-0", logprobs(sampled_tokens(answer(0)), k=2)),
            trace("p1-0", logprobs(sampled_tokens(answer(1)))),
        ],
        range(2),
    )
    objective = topk_kd.TopkKDObjective(TopkKD(alpha=0.5))
    extra = objective.collate(list(made), {})
    targets = torch.tensor([token for row in made for token in topk_kd.loss_tokens(row)])
    assert extra["topk_tokens"].shape == extra["topk_logprobs"].shape == (len(targets), K)
    labels = extra["topk_tokens"][:, 0]
    assert (labels[labels >= 0] == targets[labels >= 0]).all()
    assert (extra["topk_tokens"][: made[0]["loss_tokens"], 2] == -1).all()  # that trace kept two


def test_tokens_without_a_label_have_plain_cross_entropy(tmp_path: Path) -> None:
    import torch

    from pipeline.train.trainer import losses, topk_kd
    from pipeline.train.trainer.heads import Head
    from pipeline.train.trainer.trainer import SupervisedTokens

    made = labeled(tmp_path, [trace("p1-0", logprobs(sampled_tokens(answer(1))))], range(1, 2))
    objective = topk_kd.TopkKDObjective(TopkKD(alpha=0.8, temperature=2))
    extra = objective.collate([made[0]], {})
    targets = torch.tensor(topk_kd.loss_tokens(made[0]))
    logits = torch.randn(len(targets), VOCABULARY)
    identity = Head(torch.eye(VOCABULARY), None)  # hidden states that are logits
    loss = objective(SupervisedTokens(logits, identity, targets, [], extra))
    ce = losses.cross_entropy(logits, targets)
    kl = losses.topk_kl(logits, extra["topk_tokens"], extra["topk_logprobs"], 2)
    torch.testing.assert_close(loss[-1], ce[-1])
    torch.testing.assert_close(loss[:-1], (0.8 * 4 * kl + 0.2 * ce)[:-1])
