"""Measures the peak memory of each loss over a vocabulary, and scales it to the size of a real training.

    python -m tests.benchmarks.loss_memory [--scale 16] [--losses cross_entropy,topk_kd,logit_kd]

Every large tensor of a loss is a product of two of tokens N, vocabulary V and hidden size h, or a slice of
logits. With all three divided by --scale and the slice by its square, memory is that of the real sizes
divided by the square. Counted are the bytes of all living tensors, as PyTorch makes and frees them, above
those that are there before: weights, their gradients, hidden states, the teacher's weights. Weights are
float32, products bfloat16. "all logits" is what the losses did before: the output layer's product for all N
tokens, then the loss in slices that are recomputed. What kernels allocate inside is not counted.
"""

from __future__ import annotations

import argparse
import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from pipeline.train.trainer import losses, tiles
from pipeline.train.trainer.heads import Head

N, V, H = 32_768, 152_064, 3_584  # Qwen2.5-7B at 32k tokens
K = 20
WAYS = ("all logits", "slices")
SLICE = tiles.SLICE


class Living(TorchDispatchMode):
    """Counts the bytes of living tensors, without those that are known at the start."""

    def __init__(self, known: list[Any]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return made

    def _add(self, storage: Any) -> None:
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, storage._cdata, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def peak(losses_name: str, way: str, scale: int) -> int:
    """Bytes at the peak of forward and backward pass above what was there before."""
    tokens, vocabulary, hidden_size = N // scale, V // scale, H // scale
    tiles.SLICE = SLICE // scale**2
    torch.manual_seed(0)
    weight = torch.randn(vocabulary, hidden_size).mul_(0.05).requires_grad_()
    weight.grad = torch.zeros_like(weight)
    hidden = torch.randn(tokens, hidden_size, dtype=torch.bfloat16).requires_grad_()
    hidden.grad = torch.zeros_like(hidden)
    others = inputs(losses_name, tokens, vocabulary, hidden_size)
    head = Head(weight, None)
    known = [weight, weight.grad, hidden, hidden.grad, *others, *TEACHER]
    with Living(known) as living, torch.autocast("cpu", torch.bfloat16):
        of = whole if way == "all logits" else tiles.tiled
        of(of_slice(losses_name, whole=way == "all logits"), hidden, head, *others).sum().backward()
    return living.peak


def inputs(losses_name: str, tokens: int, vocabulary: int, hidden_size: int) -> list[Any]:
    """Targets; of a teacher its stored top-k, or its hidden states, with its head for `of_slice`."""
    TEACHER.clear()
    targets = torch.randint(vocabulary, (tokens,))
    if losses_name == "topk_kd":
        ids = torch.randint(vocabulary, (tokens, K))
        return [targets, ids, torch.full((tokens, K), -4.0)]
    if losses_name == "logit_kd":
        TEACHER.append(torch.randn(vocabulary, hidden_size, dtype=torch.bfloat16).mul_(0.05))
        return [targets, torch.randn(tokens, hidden_size, dtype=torch.bfloat16)]
    return [targets]


TEACHER: list[Any] = []  # its output layer


def of_slice(losses_name: str, whole: bool) -> Any:
    """The loss of a slice of logits; `whole`: the teacher's logits are given instead of its hidden states."""

    def topk(logits: Any, targets: Any, ids: Any, logprobs: Any) -> Any:
        return losses.combine(
            0.5, 1, losses.topk_kl(logits, ids, logprobs), losses.cross_entropy(logits, targets)
        )

    def full(logits: Any, targets: Any, teacher: Any) -> Any:
        theirs = teacher if whole else teacher @ TEACHER[0].T
        return losses.divergence("forward_kl", logits, theirs, 0.1)

    return {"cross_entropy": losses.cross_entropy, "topk_kd": topk, "logit_kd": full}[losses_name]


def whole(of_slice: Any, hidden: Any, head: Any, *others: Any) -> Any:
    """The loss from all logits, in slices of half the size, each recomputed for the gradient."""
    logits = torch.nn.functional.linear(hidden, head.weight).float()  # accelerate converts a model's output
    others = tuple(x @ TEACHER[0].T if x.is_floating_point() and TEACHER else x for x in others)
    rows = max(1, tiles.SLICE // 2 // logits.shape[-1])
    slices = zip(*(x.split(rows) for x in (logits, *others)), strict=True)
    return torch.cat([checkpoint(of_slice, *parts, use_reentrant=False) for parts in slices])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scale", type=int, default=16)
    parser.add_argument("--losses", default="cross_entropy,topk_kd,logit_kd")
    options = parser.parse_args()
    print(f"N = {N:,}, V = {V:,}, h = {H:,}, from 1/{options.scale} of each")
    print("| loss | all logits | slices |\n| --- | --- | --- |")
    for name in options.losses.split(","):
        found = [peak(name, way, options.scale) for way in WAYS]
        print(f"| {name} | " + " | ".join(f"{x * options.scale**2 / 1e9:.1f} GB" for x in found) + " |")


if __name__ == "__main__":
    main()
