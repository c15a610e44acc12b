"""Soft labels: found in the traces' log-probabilities, laid beside the student's tokens; too few: refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.training import TopkKD
from pipeline.errors import UserError
from pipeline.rows import Logprobs, Sampling, Trace, arrow_schema
from tests import tiny_student

pytest.importorskip("trl")

K, VOCABULARY = 3, 259


def drawn_tokens(text: str) -> list[int]:
    """What the teacher drew for a text: its bytes as the tiny tokenizer has them, then the end of a turn."""
    return [*tiny_student.tokenizer().encode(text), 2]


def logprobs(tokens: list[int], k: int = K) -> Logprobs:
    """The drawn token with 0.7, the next ids with 0.2 and 0.05."""
    shares = [-0.35667, -1.60944, -2.99573][:k]
    return Logprobs(
        k=k,
        thought=0,
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
    """Examples as TRL makes them of the tiny student's chat: the answer and its end are supervised."""
    import datasets

    made = []
    for number in numbers:
        prompt = drawn_tokens(f"question {number}")
        learned = [*drawn_tokens(answer(number)), *tiny_student.tokenizer().encode("\n")]
        labels = [-100] * len(prompt) + learned
        made.append({"id": f"p{number}-0", "input_ids": prompt + learned, "labels": labels})
    return datasets.Dataset.from_list(made)


def labelled(tmp_path: Path, traces: list[Trace], numbers: range) -> Any:
    from pipeline.train.trainer import topk_kd

    half = len(traces) // 2
    files = [write(tmp_path / "a.parquet", traces[:half]), write(tmp_path / "b.parquet", traces[half:])]
    made = topk_kd.add_labels(rows(numbers), files, VOCABULARY, tmp_path / "scratch")
    topk_kd.check(*topk_kd.counts(made))
    return made


def test_each_token_gets_what_the_teacher_thought_of_it(tmp_path: Path) -> None:
    from pipeline.train.trainer import topk_kd

    others = [trace(f"p{n}-0", None) for n in range(90, 93)]
    made = labelled(
        tmp_path,
        [*others, *(trace(f"p{n}-0", logprobs(drawn_tokens(answer(n)))) for n in range(4))],
        range(4),
    )
    for row in made:
        wanted = topk_kd.supervised(row).tolist()
        top = [row["soft_tokens"][at : at + K] for at in range(0, len(row["soft_tokens"]), K)]
        assert top[:-1] == [[(token + n) % VOCABULARY for n in range(K)] for token in wanted[:-1]]
        assert top[-1] == [-1] * K  # the line break behind the end of a turn, which no teacher draws
        assert (row["soft_matched"], row["soft_supervised"]) == (len(wanted) - 1, len(wanted))
    matched, tokens = topk_kd.counts(made)
    assert 0.9 < matched / tokens < 1


def test_white_space_and_an_opening_tag_that_differ_cost_only_their_own_labels(tmp_path: Path) -> None:
    from pipeline.train.trainer import topk_kd

    raw = answer(1).removeprefix("<think>\n").replace("\n</think>\n\n", " </think>\n") + "\n\n"
    made = labelled(tmp_path, [trace("p1-0", logprobs(drawn_tokens(raw)))], range(1, 2))
    text = tiny_student.tokenizer()
    row = made[0]
    wanted = topk_kd.supervised(row).tolist()
    found = [token for at, token in enumerate(wanted) if row["soft_tokens"][at * K] >= 0]
    assert {row["soft_tokens"][at * K] for at in range(len(wanted))} - set(wanted) <= {-1}
    assert text.decode(found).startswith("Count 1 up from 2.</think>\n")
    assert "\\boxed{3}" in text.decode(found)


def test_a_response_that_is_taught_alone_finds_its_tokens_behind_the_thought(tmp_path: Path) -> None:
    import datasets

    from pipeline.train.trainer import topk_kd

    thought, response = f"<think>\n{'Count on. ' * 200}\n</think>\n\n", "So it is 3."
    said = logprobs(drawn_tokens(thought + response)).model_copy(update={"thought": len(thought)})
    file = write(tmp_path / "a.parquet", [trace("p1-0", said)])
    learned = drawn_tokens(response)
    row = {"id": "p1-0", "input_ids": [1, *learned], "labels": [-100, *learned]}
    made = topk_kd.add_labels(
        datasets.Dataset.from_list([row]), [file], VOCABULARY, tmp_path / "cache", False
    )
    assert made[0]["soft_matched"] == made[0]["soft_supervised"] == len(learned)


def test_a_long_text_is_aligned_across_what_was_put_in_and_left_out() -> None:
    import numpy as np

    from pipeline.train.trainer.topk_kd import align

    chance = random.Random(0)
    drawn = [chance.randrange(50) for _ in range(30_000)]
    wanted = drawn[7:9_000] + [60] * 20 + drawn[9_040:]
    at = align(np.array(wanted), np.array(drawn))
    true = [*range(7, 9_000), *[-1] * 20, *range(9_040, 30_000)]
    agree = [found == right for found, right in zip(at.tolist(), true, strict=True)]
    assert sum(agree) > len(wanted) - 40
    assert all(wanted[n] == drawn[found] for n, found in enumerate(at.tolist()) if found >= 0)


def test_texts_that_have_nothing_in_common_end_soon_and_without_a_match() -> None:
    import numpy as np

    from pipeline.train.trainer.topk_kd import align

    assert (align(np.zeros(20_000, int), np.ones(20_000, int)) == -1).all()
    assert align(np.zeros(0, int), np.ones(3, int)).tolist() == []
    assert align(np.ones(3, int), np.zeros(0, int)).tolist() == [-1] * 3


def test_traces_without_log_probabilities_are_refused_with_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0.0% of the supervised tokens .* set generate.logprobs = 20"):
        labelled(tmp_path, [trace(f"p{n}-0", None) for n in range(4)], range(4))


def test_log_probabilities_of_the_drawn_token_alone_are_no_soft_labels(tmp_path: Path) -> None:
    means_only = [trace(f"p{n}-0", logprobs(drawn_tokens(answer(n)), k=0)) for n in range(2)]
    with pytest.raises(UserError, match=r"set generate.logprobs = 20"):
        labelled(tmp_path, means_only, range(2))


def test_another_tokenizer_is_refused_with_the_share_that_matched(tmp_path: Path) -> None:
    others = [
        trace(f"p{n}-0", logprobs([t * 2 % VOCABULARY for t in drawn_tokens(answer(n))])) for n in range(4)
    ]
    ours = [trace("p4-0", logprobs(drawn_tokens(answer(4))))]
    with pytest.raises(UserError, match=r"soft: 1\d\.\d% of .* 50% are needed: the teacher's tokenizer"):
        labelled(tmp_path, [*others, *ours], range(5))


def test_a_token_that_the_student_has_not_got_is_refused_by_name(tmp_path: Path) -> None:
    kept = logprobs(drawn_tokens(answer(1)))
    beyond = kept.model_copy(update={"top_tokens": (*kept.top_tokens[:-1], VOCABULARY)})
    with pytest.raises(UserError, match="example p1-0: its teacher named token 259, and the student has 259"):
        labelled(tmp_path, [trace("p1-0", beyond)], range(1, 2))


def test_positions_that_are_no_distribution_get_no_label(tmp_path: Path) -> None:
    kept = logprobs(drawn_tokens(answer(1)))
    tokens, values = list(kept.top_tokens), list(kept.top_logprobs)
    tokens[1] = tokens[0]  # named twice
    values[K] = values[K + 1] = -0.1  # more than 1 together
    tokens[2 * K + 2] = -1  # one less than K: sound
    spoiled = kept.model_copy(update={"top_tokens": tuple(tokens), "top_logprobs": tuple(values)})
    row = labelled(tmp_path, [trace("p1-0", spoiled)], range(1, 2))[0]
    assert [row["soft_tokens"][at * K] >= 0 for at in range(4)] == [False, False, True, True]


def test_a_batch_gets_the_labels_of_its_rows_end_to_end(tmp_path: Path) -> None:
    import torch

    from pipeline.train.trainer import topk_kd

    made = labelled(
        tmp_path,
        [
            trace("p0-0", logprobs(drawn_tokens(answer(0)), k=2)),
            trace("p1-0", logprobs(drawn_tokens(answer(1)))),
        ],
        range(2),
    )
    objective = topk_kd.SoftObjective(TopkKD(alpha=0.5))
    extra = objective.collate(list(made), {})
    targets = torch.tensor([token for row in made for token in topk_kd.supervised(row)])
    assert extra["soft_tokens"].shape == extra["soft_logprobs"].shape == (len(targets), K)
    labels = extra["soft_tokens"][:, 0]
    assert (labels[labels >= 0] == targets[labels >= 0]).all()
    assert (extra["soft_tokens"][: made[0]["soft_supervised"], 2] == -1).all()  # that trace kept two


def test_tokens_without_a_label_take_cross_entropy_alone(tmp_path: Path) -> None:
    import torch

    from pipeline.train.trainer import objectives, topk_kd
    from pipeline.train.trainer.trainer import Supervised

    made = labelled(tmp_path, [trace("p1-0", logprobs(drawn_tokens(answer(1))))], range(1, 2))
    objective = topk_kd.SoftObjective(TopkKD(alpha=0.8, temperature=2))
    extra = objective.collate([made[0]], {})
    targets = torch.tensor(topk_kd.supervised(made[0]))
    logits = torch.randn(len(targets), VOCABULARY)
    nothing = torch.zeros(0)
    loss = objective(Supervised(logits, targets, nothing, nothing, {}, extra))
    ce = objectives.cross_entropy(logits, targets)
    kl = objectives.topk_kl(logits, extra["soft_tokens"], extra["soft_logprobs"], 2)
    torch.testing.assert_close(loss[-1], ce[-1])
    torch.testing.assert_close(loss[:-1], (0.8 * 4 * kl + 0.2 * ce)[:-1])
