"""Measures the peak memory of each loss over a vocabulary, and scales it to the size of a real training.

    python -m tests.benchmarks.loss_memory [--scale 8] [--losses cross_entropy,topk_kd,logit_kd]

Every large tensor of a loss is a product of two of tokens N, vocabulary V and hidden size h, or a slice of
logits. With all three divided by --scale and the slice by its square, memory is that of the real sizes
divided by the square; Python and small buffers add a little. "all logits" is what the losses did before: the output
layer's product for all N tokens, then the loss in slices that are recomputed. Weights are float32, products
bfloat16. Weights, their gradients, hidden states, and the teacher's weights are there before and not counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

N, V, H = 32_768, 152_064, 3_584  # Qwen2.5-7B at 32k tokens
K = 20
WAYS = ("all logits", "slices")


def peak(losses_name: str, way: str, scale: int) -> int:
    """Bytes at the peak of forward and backward pass above what was there before."""
    import torch

    from pipeline.train.trainer import tiles
    from pipeline.train.trainer.heads import Head

    tokens, vocabulary, hidden_size = N // scale, V // scale, H // scale
    tiles.SLICE = tiles.SLICE // scale**2
    torch.manual_seed(0)
    weight = torch.randn(vocabulary, hidden_size).mul_(0.05).requires_grad_()
    weight.grad = torch.zeros_like(weight)
    hidden = torch.randn(tokens, hidden_size, dtype=torch.bfloat16).requires_grad_()
    hidden.grad = torch.zeros_like(hidden)
    others = inputs(losses_name, tokens, vocabulary, hidden_size)
    head = Head(weight, None)
    before = reset_peak()
    with torch.autocast("cpu", torch.bfloat16):
        of = whole if way == "all logits" else tiles.tiled
        of(of_slice(losses_name, whole=way == "all logits"), hidden, head, *others).sum().backward()
    return status("VmHWM") - before


def inputs(losses_name: str, tokens: int, vocabulary: int, hidden_size: int) -> list[Any]:
    """Targets; of a teacher its stored top-k, or its hidden states, with its head for `of_slice`."""
    import torch

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
    from pipeline.train.trainer import losses

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
    import torch
    from torch.utils.checkpoint import checkpoint

    from pipeline.train.trainer import tiles

    logits = torch.nn.functional.linear(hidden, head.weight).float()  # accelerate converts a model's output
    others = tuple(x @ TEACHER[0].T if x.is_floating_point() and TEACHER else x for x in others)
    rows = max(1, tiles.SLICE // 2 // logits.shape[-1])
    slices = zip(*(x.split(rows) for x in (logits, *others)), strict=True)
    return torch.cat([checkpoint(of_slice, *parts, use_reentrant=False) for parts in slices])


def status(name: str) -> int:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024


def reset_peak() -> int:
    """Starts a new peak of this process's memory at what it holds now, which is returned."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scale", type=int, default=8)
    parser.add_argument("--losses", default="cross_entropy,topk_kd,logit_kd")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(peak(*options.one, options.scale))
        return
    print(f"N = {N:,}, V = {V:,}, h = {H:,}, from 1/{options.scale} of each")
    print("| loss | all logits | slices |\n| --- | --- | --- |")
    for name in options.losses.split(","):
        line = [sys.executable, "-m", "tests.benchmarks.loss_memory", "--scale", str(options.scale), "--one"]
        found = [
            int(subprocess.run([*line, name, way], check=True, capture_output=True, text=True).stdout)
            for way in WAYS
        ]
        print(f"| {name} | " + " | ".join(f"{x * options.scale**2 / 1e9:.1f} GB" for x in found) + " |")


if __name__ == "__main__":
    main()
