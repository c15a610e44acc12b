"""The losses of white-box terms against plain definitions and finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from pipeline.train.trainer import attention_transfer, capture, features, relations  # noqa: E402
from pipeline.train.trainer.documents import Document, documents, numbered  # noqa: E402


def numbers(*shape: int, seed: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Hidden states


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_the_feature_loss_is_its_definition(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "CHUNK", 2)
    student, teacher, weight = numbers(5, 3, seed=1), numbers(5, 4, seed=2), numbers(4, 3, seed=3)
    found = features.feature_loss(kind, student, teacher, weight)
    for value, s, t in zip(found, student.numpy(), teacher.numpy(), strict=True):
        mapped = weight.numpy() @ s
        cosine = mapped @ t / np.linalg.norm(mapped) / np.linalg.norm(t)
        expected = 1 - cosine if kind == "cosine" else ((mapped - t) ** 2).sum() / 4
        assert value.item() == pytest.approx(expected, rel=1e-10)
    assert torch.autograd.gradcheck(
        lambda s, w: features.feature_loss(kind, s, teacher, w),
        (student.requires_grad_(), weight.requires_grad_()),
    )


# Attention


def inputs(heads: int, groups: int, seed: int, window: int | None = None) -> capture.AttentionInputs:
    query, key, value = (numbers(2, n, 9, 4, seed=seed + i) for i, n in enumerate((heads, groups, groups)))
    return capture.AttentionInputs(query, key, value, 0.5, window, None)


DOCUMENTS = [Document(0, 0, 5), Document(0, 5, 9), Document(1, 0, 6)]


def rows() -> Any:
    made = torch.zeros(2, 9, dtype=torch.bool)
    made[0, [2, 3, 6, 7, 8]] = made[1, [1, 4]] = True
    return made


def softmax(scores: Any) -> Any:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def kl(p: Any, q: Any) -> float:
    return float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))


def one_map(a: Any, b: Any, scale: float, start: int, row: int, window: int | None) -> Any:
    """The attention of a row to the keys of its document up to it, from (L, d) arrays."""
    first = start if window is None else max(start, row - window + 1)
    return softmax(scale * (b[first : row + 1] @ a[row]))


def maps(x: capture.AttentionInputs, document: Document, row: int) -> list[Any]:
    shared = x.query.shape[1] // x.key.shape[1]
    return [
        one_map(
            x.query[document.row, head].numpy(),
            x.key[document.row, head // shared].numpy(),
            x.scale,
            document.start,
            row,
            x.window,
        )
        for head in range(x.query.shape[1])
    ]


def each_row() -> list[tuple[Document, int]]:
    found = []
    for document in DOCUMENTS:
        chosen = rows()[document.row].nonzero().flatten().tolist()
        found += [(document, row) for row in chosen if document.start <= row < document.end]
    return found


@pytest.mark.parametrize("kind", ["kl", "l2"])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("block", [1, 2**20])
def test_maps_are_compared_by_document_after_the_mean_over_heads(
    kind: str, window: int | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_transfer, "BLOCK", block)
    student, teacher = inputs(4, 2, 1, window), inputs(6, 3, 7, window)
    found = attention_transfer.attention_loss(kind, student, teacher, DOCUMENTS, rows(), 4)
    assert len(found) == len(each_row())
    for value, (document, row) in zip(found, each_row(), strict=True):
        s, t = (np.mean(maps(x, document, row), 0) for x in (student, teacher))
        squared = ((s / np.linalg.norm(s) - t / np.linalg.norm(t)) ** 2).sum()
        assert value.item() == pytest.approx(kl(t, s) if kind == "kl" else squared, rel=1e-6, abs=1e-9)


def regrouped(x: Any, row: int, heads: int) -> Any:
    return x[row].transpose(0, 1).flatten(1).unflatten(1, (heads, -1)).transpose(0, 1).numpy()


def test_minilm_compares_relations_of_queries_with_keys_and_of_values() -> None:
    student, teacher, heads = inputs(4, 4, 1), inputs(6, 6, 7), 8
    found = attention_transfer.attention_loss("minilm", student, teacher, DOCUMENTS, rows(), heads)
    for value, (document, row) in zip(found, each_row(), strict=True):
        expected = 0.0
        for a, b in (("query", "key"), ("value", "value")):
            sides = []
            for x in (student, teacher):
                first, second = (regrouped(getattr(x, name), document.row, heads) for name in (a, b))
                scale = first.shape[-1] ** -0.5
                sides.append(
                    [
                        one_map(p, q, scale, document.start, row, None)
                        for p, q in zip(first, second, strict=True)
                    ]
                )
            expected += np.mean([kl(t, s) for s, t in zip(*sides, strict=True)])
        assert value.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["kl", "l2", "minilm"])
def test_the_gradient_of_attention_matches_finite_differences(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_transfer, "BLOCK", 60)
    student, teacher = inputs(2, 2, 1), inputs(3, 3, 7)

    def value(query: Any, key: Any, values: Any) -> Any:
        ours = student._replace(query=query, key=key, value=values)
        return attention_transfer.attention_loss(kind, ours, teacher, DOCUMENTS, rows(), 4)

    tensors = tuple(x.requires_grad_() for x in (student.query, student.key, student.value))
    assert torch.autograd.gradcheck(value, tensors)


# Relations between examples


def test_examples_are_means_of_their_tokens() -> None:
    hidden, document = numbers(4, 3, seed=1), torch.tensor([0, 2, 2, 0])
    found = relations.pooled(hidden, document, 3)
    torch.testing.assert_close(found[0], hidden[[0, 3]].mean(0))
    assert found[1].abs().sum() == 0
    torch.testing.assert_close(found[2], hidden[1:3].mean(0))


def huber(difference: float) -> float:
    return 0.5 * difference**2 if abs(difference) < 1 else abs(difference) - 0.5


def test_relations_are_their_definitions() -> None:
    student, teacher = numbers(4, 3, seed=1), numbers(4, 5, seed=2)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    triples = [(i, j, k) for i, j in pairs for k in range(4) if k not in (i, j)]
    distances, angles, grams = [], [], []
    for x in (student.numpy(), teacher.numpy()):
        far = {(i, j): np.linalg.norm(x[i] - x[j]) for i, j in pairs}
        mean = np.mean(list(far.values()))
        distances.append([far[pair] / mean for pair in pairs])
        angles.append([float((x[i] - x[j]) @ (x[k] - x[j]) / far[i, j] / far[k, j]) for i, j, k in triples])
        gram = x @ x.T
        grams.append(gram / np.linalg.norm(gram, axis=1, keepdims=True))
    expected = {
        "distance": np.mean([huber(s - t) for s, t in zip(*distances, strict=True)]),
        "angle": np.mean([huber(s - t) for s, t in zip(*angles, strict=True)]),
        "similarity": ((grams[0] - grams[1]) ** 2).sum() / 16,
    }
    for name, value in expected.items():
        assert relations.RELATIONS[name](student, teacher).item() == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("name", relations.RELATIONS)
def test_the_gradient_of_relations_matches_finite_differences(name: str) -> None:
    student, teacher = numbers(4, 3, seed=1).requires_grad_(), numbers(4, 5, seed=2)
    assert torch.autograd.gradcheck(lambda s: relations.RELATIONS[name](s, teacher), student)


def test_equal_examples_give_finite_gradients() -> None:
    student = torch.ones(3, 4, requires_grad=True)
    for loss in relations.RELATIONS.values():
        loss(student, numbers(3, 4, seed=1).float()).backward()
    assert torch.isfinite(student.grad).all()


# Documents


def test_documents_of_padded_and_packed_batches() -> None:
    padded = {"input_ids": torch.ones(2, 4), "attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])}
    assert documents(padded) == [(0, 0, 2), (1, 0, 4)]
    packed = {"input_ids": torch.ones(1, 5), "position_ids": torch.tensor([[0, 1, 2, 0, 1]])}
    assert documents(packed) == [(0, 0, 3), (0, 3, 5)]
    assert documents(packed | {"cu_seq_lens_q": torch.tensor([0, 3, 5])}) == [(0, 0, 3), (0, 3, 5)]
    found = numbered(documents(padded), torch.Size([2, 4]), torch.device("cpu"))
    assert found.tolist() == [[0, 0, -1, -1], [1, 1, 1, 1]]


@pytest.mark.parametrize(
    ("widths", "heads", "expected"),
    [
        ((768, 768), 12, 12),  # as many as the student has
        ((256, 512), 12, 8),  # Qwen2.5-1.5B, whose values are 256 wide, of Qwen2.5-7B
        ((192, 192), 9, 8),  # SmolLM2-135M of itself
        ((7, 5), 4, 1),
    ],
)
def test_default_relation_heads_divide_the_widths_of_both_models(
    widths: tuple[int, int], heads: int, expected: int
) -> None:
    assert attention_transfer.default_heads(widths, heads) == expected
