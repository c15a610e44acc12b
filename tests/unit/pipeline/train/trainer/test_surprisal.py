"""Surprisals and ranks against their plain definition in float64."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")

import torch

from pipeline.train.trainer import surprisal
from pipeline.train.trainer.surprisal import Reading, Text, read, surprisals_and_ranks
from tests import tiny_student


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_student.model(seed=3).double().eval()


def texts(count: int = 7) -> list[Text]:
    rng = random.Random(1)
    lengths = [rng.randrange(3, 60) for _ in range(count)]
    return [
        Text(np.array([rng.randrange(259) for _ in range(n)], np.int32), rng.randrange(1, n)) for n in lengths
    ]


def by_definition(model: Any, text: Text) -> Reading:
    """Token by token: -log softmax(z)[y], and 1 + how many tokens have a greater logit."""
    with torch.no_grad():
        logits = model(torch.tensor(text.ids[None].astype(np.int64))).logits[0]
    surprisals, ranks = [], []
    for position in range(text.first, len(text.ids)):
        z, y = logits[position - 1], int(text.ids[position])
        surprisals.append(-float(torch.log_softmax(z, -1)[y]))
        ranks.append(1 + sum(float(other) > float(z[y]) for other in z))
    return Reading(np.array(surprisals), np.array(ranks))


@pytest.mark.parametrize(("batch_tokens", "logits"), [(1, 2**27), (200, 2**27), (200, 259 * 8), (80, 259)])
def test_any_batch_and_any_chunk_give_the_plain_definition(
    model: Any, batch_tokens: int, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surprisal, "LOGITS", logits)  # 259: one token of one text at a time
    given = texts()
    found = dict(read(model, given, batch_tokens))
    assert sorted(found) == list(range(len(given)))
    for n, text in enumerate(given):
        expected = by_definition(model, text)
        np.testing.assert_allclose(found[n].surprisals, expected.surprisals, rtol=1e-9)
        assert found[n].ranks.tolist() == expected.ranks.tolist()


def test_slices_of_the_logits_give_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(23, 259), torch.randint(259, (23,))
    whole = surprisals_and_ranks(logits, targets)
    monkeypatch.setattr(surprisal, "SLICE", 259 * 4)
    for ours, expected in zip(surprisals_and_ranks(logits, targets), whole, strict=True):
        assert torch.equal(ours, expected)


def test_the_likeliest_token_has_rank_1_and_equal_ones_share_the_better_rank() -> None:
    logits = torch.tensor([[3.0, 1.0, 1.0, 0.0]] * 3)
    _, ranks = surprisals_and_ranks(logits, torch.tensor([0, 2, 3]))
    assert ranks.tolist() == [1, 2, 4]
