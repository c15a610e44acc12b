"""Losses with the output layer's product inside a slice: the same values and gradients as with all logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from pipeline.train.trainer import losses, tiles  # noqa: E402
from pipeline.train.trainer.heads import Head, check, head_of  # noqa: E402
from tests import tiny_student  # noqa: E402

N, H, V = 11, 6, 7


def numbers(*shape: int, seed: int, dtype: Any = None) -> Any:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=made, dtype=torch.float64).to(dtype or torch.float64)


def of_slice(logits: Any, targets: Any, teacher: Any, ids: Any, logprobs: Any) -> Any:
    """Everything that the objectives use, at once."""
    total = losses.cross_entropy(logits, targets) + losses.topk_kl(logits, ids, logprobs, 1.3)
    for name in losses.DIVERGENCES:
        total = total + losses.divergence(name, logits, teacher, 0.3, 1.3)
    return total


def inputs(dtype: Any = None) -> tuple[Any, ...]:
    teacher = numbers(N, V, seed=3)
    logprobs, ids = teacher.log_softmax(-1).topk(3, -1)
    return (
        numbers(N, H, seed=1, dtype=dtype),
        numbers(V, H, seed=2, dtype=dtype),
        (
            torch.arange(N) % V,
            teacher.to(dtype or torch.float64),
            ids,
            logprobs,
        ),
    )


@pytest.mark.parametrize("rows", [1, 4, 11, 99])
@pytest.mark.parametrize(("scale", "softcap"), [(1.0, None), (0.3, None), (2.0, 3.0)])
def test_slices_of_any_size_give_the_values_and_gradients_of_all_logits(
    rows: int, scale: float, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "SLICE", rows * V)
    hidden, weight, others = inputs()
    bias, incoming = numbers(V, seed=4), numbers(N, seed=5)
    found, expected = [], []
    for collected, sliced in ((found, True), (expected, False)):
        h, w, b = (x.clone().requires_grad_() for x in (hidden, weight, bias))
        if sliced:
            values = tiles.tiled(of_slice, h, Head(w, b, scale, softcap), *others)
        else:
            z = (h @ w.T + b) * scale
            values = of_slice(z if softcap is None else softcap * torch.tanh(z / softcap), *others)
        values.backward(incoming)
        collected += [values.detach(), h.grad, w.grad, b.grad]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_the_gradients_match_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SLICE", 4 * V)
    hidden, weight, others = inputs()
    assert torch.autograd.gradcheck(
        lambda h, w: tiles.tiled(of_slice, h, Head(w, None), *others),
        (hidden.requires_grad_(), weight.requires_grad_()),
    )


def test_bfloat16_logits_are_computed_in_float32_and_the_head_s_gradient_is_summed_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiles, "SLICE", V)
    hidden, weight, others = inputs(torch.bfloat16)
    hidden.requires_grad_()
    wide = weight.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        values = tiles.tiled(of_slice, hidden, Head(wide, None), *others)
    logits = (hidden.detach() @ weight.T).double()
    assert values.dtype == torch.float32
    np.testing.assert_allclose(values.detach(), of_slice(logits, *others), rtol=1e-4)
    values.sum().backward()
    exact = logits.requires_grad_()
    of_slice(exact, *others).sum().backward()
    assert wide.grad.dtype == torch.float32
    torch.testing.assert_close(
        wide.grad.double(), exact.grad.T @ hidden.detach().double(), rtol=2e-2, atol=0.1
    )
    assert hidden.grad.dtype == torch.bfloat16


def test_no_tensor_with_all_logits_is_kept_for_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "SLICE", 2 * V)
    hidden, weight, others = inputs()
    kept: list[Any] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        tiles.tiled(
            lambda z, y: losses.cross_entropy(z, y),
            hidden.requires_grad_(),
            Head(weight.requires_grad_(), None),
            others[0],
        )
    assert all(x.numel() < N * V for x in kept)


def test_no_tokens_give_zero_gradients_and_no_error() -> None:
    hidden, weight = torch.zeros(0, H, requires_grad=True), torch.ones(V, H, requires_grad=True)
    tiles.tiled(lambda z: z.sum(-1), hidden, Head(weight, None)).sum().backward()
    assert weight.grad.abs().sum() == 0


@pytest.mark.parametrize(("name", "beta"), [("forward_kl", 0.0), ("reverse_kl", 1.0), ("jsd", 0.3)])
def test_divergences_equal_trl_s(name: str, beta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    monkeypatch.setattr(tiles, "SLICE", 4 * V)
    hidden, weight, _ = inputs(torch.float32)
    other, head = numbers(N, 5, seed=7, dtype=torch.float32), numbers(V, 5, seed=8, dtype=torch.float32)
    incoming = numbers(N, seed=5, dtype=torch.float32)

    def ours(h: Any, w: Any) -> Any:
        def of_slice(z: Any, t: Any) -> Any:
            return losses.divergence(name, z, t @ head.T, beta, 1.3)

        return tiles.tiled(of_slice, h, Head(w, None), other)

    def theirs(h: Any, w: Any) -> Any:
        scales = (1.0, None, 1.0, None)
        return ChunkedDivergenceFunction.apply(h, w, None, other, head, None, beta, 1.3, *scales)[0]

    results = []
    for of in (ours, theirs):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        values = of(h, w)
        values.backward(incoming)
        results.append((values.detach(), h.grad, w.grad))
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_a_model_s_head_gives_its_logits() -> None:
    from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig

    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 259}
    for config in (
        CohereConfig(logit_scale=0.3, **sizes),
        Gemma2Config(final_logit_softcapping=0.05, head_dim=8, **sizes),
        GraniteConfig(logits_scaling=4.0, **sizes),
    ):
        model = AutoModelForCausalLM.from_config(config)
        check("student", model)
        assert head_of(model).vocabulary == 259


def test_logits_that_change_after_the_head_in_an_unknown_way_are_refused() -> None:
    from pipeline.errors import UserError

    model = tiny_student.model()
    plain = model.forward

    def changed(**settings: Any) -> Any:
        found = plain(**settings)
        found.logits = found.logits + torch.arange(259) / 100
        return found

    model.forward = changed
    with pytest.raises(
        UserError, match="student: LlamaForCausalLM changes its logits after the output layer"
    ):
        check("student", model)
