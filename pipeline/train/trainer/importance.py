"""Measures how important layers, attention heads and MLP channels are, by activations on examples.

Layer l: block influence, 1 - mean over tokens of cos(x_l, x_l+1), of the states before and after it
(ShortGPT, Men et al. 2024, arXiv 2403.03853, equation 1).
Head h: the L2 norm of its output, the input of the output projection; heads that share a key-value head are
measured as one. Channel c: the size of its activation, the input of the down projection. Both: mean over the
tokens of an example, then L2 over examples (Minitron, Muralidharan et al. 2024, arXiv 2407.14679, 2.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.train.trainer.prunable_layers import Parts, parts_of


@dataclass
class Importance:
    layers: list[float]  # block influence of each layer
    heads: list[list[float]]  # layer -> score of each group of heads
    channels: list[list[float]]  # layer -> score of each MLP channel


class _Sums:
    """What has been measured of one layer."""

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.tokens = 0
        self.cosines: Any = 0.0
        self.heads: Any = 0.0
        self.channels: Any = 0.0

    def layer(self, _: Any, args: Any, named: Any, output: Any) -> None:
        before = args[0] if args else named["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        cosine = torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
        self.cosines += cosine.double().sum()
        self.tokens += cosine.numel()

    def attention(self, _: Any, args: Any) -> None:
        norms = args[0].float().unflatten(-1, (self.groups, -1)).norm(dim=-1)
        self.heads += _of_example(norms)

    def mlp(self, _: Any, args: Any) -> None:
        self.channels += _of_example(args[0].float().abs())


def _of_example(sizes: Tensor) -> Tensor:
    """(1, tokens, n) -> the squared means over the tokens, (n,)."""
    return sizes.mean(dim=1)[0].double().square()


@torch.no_grad()
def measure(model: PreTrainedModel, examples: Iterable[list[int]]) -> Importance:
    """Runs the model on each example, token ids without padding."""
    layers = parts_of(model)
    sums = [_Sums(part.groups) for part in layers]
    hooks = [hook for part, found in zip(layers, sums, strict=True) for hook in _hooks(part, found)]
    for ids in examples:
        model(torch.tensor([ids], device=model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    return Importance(
        layers=[1 - float(s.cosines) / s.tokens for s in sums],
        heads=[_root(s.heads) for s in sums],
        channels=[_root(s.channels) for s in sums],
    )


def _hooks(part: Parts, found: _Sums) -> Iterable[Any]:
    yield part.layer.register_forward_hook(found.layer, with_kwargs=True)
    if part.attention is not None:
        yield part.attention.o_proj.register_forward_pre_hook(found.attention)
    if part.mlp is not None:
        yield part.mlp.down_proj.register_forward_pre_hook(found.mlp)


def _root(squares: Any) -> list[float]:
    return squares.sqrt().tolist() if isinstance(squares, Tensor) else []


def most(scores: Iterable[float], keep: int) -> list[int]:
    """The positions of the `keep` highest scores, in order; of equal ones the first."""
    ranked = sorted(enumerate(scores), key=lambda each: (-each[1], each[0]))
    return sorted(position for position, _ in ranked[:keep])
