"""The parts of a decoder layer that can be made narrower, as Llama, Mistral and Qwen name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from pipeline.train.trainer.layers import depth, layer_stack

_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_NORMS = {"q_norm", "k_norm"}  # over one head each
_MLP = {"gate_proj", "up_proj", "down_proj"}


@dataclass(frozen=True)
class Parts:
    """One layer. attention, mlp: None where heads or channels cannot be told apart."""

    layer: torch.nn.Module
    attention: Any
    mlp: Any
    groups: int  # of heads: key-value heads
    head_dim: int

    def keep_groups(self, kept: Sequence[int], heads: int) -> None:
        """Drops all other key-value heads and the heads that share them; `heads`: before."""
        mine = self.attention
        each = heads // self.groups
        of_keys = _blocks(kept, self.head_dim)
        of_queries = _blocks(kept, self.head_dim * each)
        _keep_outputs(mine.q_proj, of_queries)
        _keep_outputs(mine.k_proj, of_keys)
        _keep_outputs(mine.v_proj, of_keys)
        _keep_inputs(mine.o_proj, of_queries)

    def keep_channels(self, kept: Sequence[int]) -> None:
        """Drops all other channels of the MLP."""
        for linear in (self.mlp.gate_proj, self.mlp.up_proj):
            _keep_outputs(linear, kept)
        _keep_inputs(self.mlp.down_proj, kept)


def parts_of(model: PreTrainedModel) -> list[Parts]:
    """The layers of a model. Exits with one line where it keeps none in a list."""
    config = model.config.get_text_config(decoder=True)
    stack = layer_stack(model, depth(model))
    if stack is None:
        raise SystemExit(f"{type(model).__name__} has no list of layers, so none can be dropped")
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return [
        Parts(layer, _attention(layer, head_dim), _mlp(layer), int(groups), int(head_dim)) for layer in stack
    ]


def _attention(layer: torch.nn.Module, head_dim: int) -> Any:
    """The attention, if all of its weights are known; norms must be over one head, not over all."""
    found = getattr(layer, "self_attn", None)
    if found is None or not _has(found, _ATTENTION, _NORMS):
        return None
    norms = [getattr(found, name) for name in _NORMS if hasattr(found, name)]
    return found if all(w.numel() == head_dim for norm in norms for w in norm.parameters()) else None


def _mlp(layer: torch.nn.Module) -> Any:
    found = getattr(layer, "mlp", None)
    return found if found is not None and _has(found, _MLP, set()) else None


def _has(module: torch.nn.Module, needed: set[str], optional: set[str]) -> bool:
    """Whether the weights of a module are in these linear layers and norms, and nowhere else."""
    owners = {name.partition(".")[0] for name, _ in module.named_parameters()}
    linear = all(isinstance(getattr(module, name, None), torch.nn.Linear) for name in needed)
    return linear and needed <= owners <= needed | optional


def _blocks(kept: Sequence[int], size: int) -> list[int]:
    """The positions in blocks of this size."""
    return [block * size + i for block in kept for i in range(size)]


def _keep_outputs(linear: torch.nn.Linear, kept: Sequence[int]) -> None:
    linear.weight = torch.nn.Parameter(linear.weight.data[kept])
    if linear.bias is not None:
        linear.bias = torch.nn.Parameter(linear.bias.data[kept])
    linear.out_features = len(kept)


def _keep_inputs(linear: torch.nn.Linear, kept: Sequence[int]) -> None:
    linear.weight = torch.nn.Parameter(linear.weight.data[:, kept])
    linear.in_features = len(kept)
