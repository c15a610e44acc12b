"""The losses against closed forms in plain Python, finite differences, and their limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from pipeline.train.trainer import losses  # noqa: E402

N, V = 5, 7
BETA = {"jsd": 0.3}  # of the others 0.1


def divergence(name: str, student: Any, teacher: Any, temperature: float = 1) -> Any:
    return losses.divergence(name, student, teacher, BETA.get(name, 0.1), temperature)


def logits(seed: int, dtype: Any = None, rows: int = N) -> Any:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(rows, V, generator=made, dtype=torch.float64).mul(2).to(dtype or torch.float64)


def softmax(row: list[float], temperature: float = 1) -> list[float]:
    powers = [math.exp(z / temperature) for z in row]
    return [x / sum(powers) for x in powers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a)


def mixed(p: list[float], q: list[float], beta: float) -> list[float]:
    return [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]


CLOSED: dict[str, Callable[[list[float], list[float]], float]] = {
    "forward_kl": lambda p, q: kl(p, q),
    "reverse_kl": lambda p, q: kl(q, p),
    "skew_kl": lambda p, q: kl(p, mixed(p, q, 0.1)),
    "skew_reverse_kl": lambda p, q: kl(q, mixed(q, p, 0.1)),
    "jsd": lambda p, q: 0.3 * kl(p, mixed(p, q, 0.3)) + 0.7 * kl(q, mixed(p, q, 0.3)),
}


def top(teacher: Any, k: int) -> tuple[Any, Any]:
    """The stored top-k of a teacher's distribution: ids (N, k), log-probabilities (N, k)."""
    logprobs, ids = teacher.log_softmax(-1).topk(k, -1)
    return ids, logprobs


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("name", losses.DIVERGENCES)
def test_a_divergence_equals_its_closed_form(name: str, temperature: float) -> None:
    student, teacher = logits(1), logits(2)
    expected = [
        CLOSED[name](softmax(t, temperature), softmax(s, temperature))
        for s, t in zip(student.tolist(), teacher.tolist(), strict=True)
    ]
    np.testing.assert_allclose(divergence(name, student, teacher, temperature), expected, rtol=1e-10)


def test_cross_entropy_is_minus_the_log_probability_of_the_token() -> None:
    student, targets = logits(1), torch.tensor([0, 6, 3, 3, 1])
    expected = [-math.log(softmax(row)[y]) for row, y in zip(student.tolist(), targets.tolist(), strict=True)]
    np.testing.assert_allclose(losses.cross_entropy(student, targets), expected, rtol=1e-10)


@pytest.mark.parametrize("name", losses.DIVERGENCES)
def test_the_gradient_of_a_divergence_matches_finite_differences(name: str) -> None:
    student = logits(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: divergence(name, s, logits(2), 1.7), student)


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_the_gradient_of_the_top_k_divergence_matches_finite_differences(temperature: float) -> None:
    ids, logprobs = top(logits(2), 3)
    ids[0], ids[1, 2] = -1, -1
    student = logits(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: losses.topk_kl(s, ids, logprobs, temperature), student)


@pytest.mark.parametrize("name", losses.DIVERGENCES)
def test_divergences_are_positive_and_zero_for_equal_logits(name: str) -> None:
    assert (divergence(name, logits(1), logits(2)) > 0).all()
    np.testing.assert_allclose(divergence(name, logits(1), logits(1)), 0, atol=1e-12)


@pytest.mark.parametrize("name", losses.DIVERGENCES)
def test_the_teacher_gets_no_gradient(name: str) -> None:
    student, teacher = logits(1).requires_grad_(), logits(2).requires_grad_()
    divergence(name, student, teacher).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_skewed_divergences_have_the_plain_ones_as_limits() -> None:
    student, teacher, little = logits(1), logits(2), 1e-7
    forward, reverse = (divergence(name, student, teacher) for name in ("forward_kl", "reverse_kl"))
    np.testing.assert_allclose(losses.divergence("skew_kl", student, teacher, little), forward, rtol=1e-4)
    np.testing.assert_allclose(
        losses.divergence("skew_reverse_kl", student, teacher, little), reverse, rtol=1e-4
    )
    np.testing.assert_allclose(
        losses.divergence("jsd", student, teacher, little) / little, forward, rtol=1e-4
    )
    np.testing.assert_allclose(
        losses.divergence("jsd", student, teacher, 1 - little) / little, reverse, rtol=1e-4
    )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_top_k_divergence_compares_buckets(temperature: float) -> None:
    student, (ids, logprobs) = logits(1), top(logits(2), 3)
    found = losses.topk_kl(student, ids, logprobs, temperature)
    for row in range(N):
        given = softmax(student[row].tolist())
        named = [math.exp(x) for x in logprobs[row].tolist()]
        p = [*named, 1 - sum(named)]
        q = [given[i] for i in ids[row].tolist()]
        q = [*q, 1 - sum(q)]
        p, q = ([x ** (1 / temperature) for x in d] for d in (p, q))
        expected = kl([x / sum(p) for x in p], [x / sum(q) for x in q])
        assert found[row].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_top_k_divergence_of_all_tokens_is_the_forward_kl(temperature: float) -> None:
    student, teacher = logits(1), logits(2)
    np.testing.assert_allclose(
        losses.topk_kl(student, *top(teacher, V), temperature),
        divergence("forward_kl", student, teacher, temperature),
        rtol=1e-9,
    )


def test_mass_outside_the_top_k_is_penalized() -> None:
    teacher = logits(2)
    ids, logprobs = top(teacher, 2)
    moved = teacher.clone()
    moved[:, :] += 5
    moved.scatter_add_(1, ids, torch.full_like(logprobs, -5.0))  # the odds of the two tokens stay the same
    assert losses.topk_kl(teacher, ids, logprobs).abs().max() < 1e-9
    assert (losses.topk_kl(moved, ids, logprobs) > 0.1).all()


def test_a_position_without_top_k_has_no_loss_and_no_gradient() -> None:
    student = logits(1, torch.float32).requires_grad_()
    ids, logprobs = torch.full((N, 3), -1), torch.full((N, 3), -9999.0)
    loss = losses.topk_kl(student, ids, logprobs)
    loss.sum().backward()
    assert loss.abs().max() == 0
    assert student.grad.abs().max() == 0


def test_padding_of_the_top_k_is_not_token_zero() -> None:
    ids, logprobs = top(logits(2), 3)
    filled = torch.cat([ids, torch.full((N, 2), -1)], 1), torch.cat([logprobs, torch.zeros(N, 2)], 1)
    np.testing.assert_allclose(
        losses.topk_kl(logits(1), *filled), losses.topk_kl(logits(1), ids, logprobs), rtol=1e-12
    )


def test_t_squared_restores_the_scale_of_the_gradient() -> None:
    sizes = []
    for temperature in (10.0, 100.0, 1000.0):
        student = logits(1).requires_grad_()
        kl = divergence("forward_kl", student, logits(2), temperature)
        losses.combine(1, temperature, kl, torch.zeros(N)).sum().backward()
        sizes.append(student.grad.norm().item())
    assert sizes[1] == pytest.approx(sizes[2], rel=0.05)
    # Hinton et al.: as T grows, T^2 dD/dz_s goes to ((z_s - mean z_s) - (z_t - mean z_t)) / V.
    s, t = (z - z.mean(-1, keepdim=True) for z in (logits(1), logits(2)))
    assert sizes[2] == pytest.approx(((s - t) / V).norm().item(), rel=0.01)


def test_alpha_mixes_divergence_and_cross_entropy_token_by_token() -> None:
    alpha = torch.tensor([0.0, 0.5, 1.0])
    mixture = losses.combine(alpha, 2, torch.tensor([1.0, 1.0, 1.0]), torch.tensor([3.0, 3.0, 3.0]))
    assert mixture.tolist() == [3.0, 3.5, 4.0]


@pytest.mark.parametrize("name", losses.DIVERGENCES)
def test_bfloat16_logits_are_computed_in_float32(name: str) -> None:
    student, teacher = logits(1, torch.bfloat16), logits(2, torch.bfloat16)
    found = divergence(name, student, teacher)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, divergence(name, student.double(), teacher.double()), rtol=1e-5)


def test_extreme_logits_give_finite_values_and_gradients() -> None:
    student = torch.tensor([[0.0, 200.0, -200.0]], requires_grad=True)
    teacher = torch.tensor([[200.0, 0.0, -200.0]])
    values = [divergence(name, student, teacher) for name in losses.DIVERGENCES]
    values.append(losses.topk_kl(student, torch.tensor([[0, 1]]), torch.tensor([[0.0, -200.0]])))
    torch.stack(values).sum().backward()
    assert torch.isfinite(torch.stack(values)).all()
    assert torch.isfinite(student.grad).all()
