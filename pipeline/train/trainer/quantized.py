"""Trains a model whose weights are rounded to 4 bits, from an export of the scheme w4a16 and back into it.

The export keeps each weight as an integer q in -8 ... 7, and a scale s for each group of a row: w = q s. The
training keeps latent weights v, multiplies by clamp(round(v / s), -8, 7) s, and passes the gradient through
the rounding (the straight-through estimator, Bengio et al. 2013, arXiv 1308.3432; for the training of
quantized models, Jacob et al. 2017, arXiv 1712.05877). Scales, and all other weights, stay as they are. So
what is written back is exactly what was trained.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import UserError

LOW, HIGH = -8, 7
INSIDE = 0.49  # of a step: latent weights stay this near to the integer that the export has
PACKED, SCALE = (
    ".weight_packed",
    ".weight_scale",
)  # ends of the tensors' names, as compressed-tensors has them
_SHIFTS = torch.arange(8, dtype=torch.int32) * 4  # eight integers in each int32, the first in the lowest bits


class RoundedLinear(nn.Linear):
    """A linear layer that multiplies by the rounded weights."""

    def __init__(self, layer: nn.Linear, integers: Tensor, scale: Tensor) -> None:
        """integers (out, in); scale (out, groups). The latent weights begin as the layer's own.

        They are bounded so that they round to the calibrated integers; those near a bound change early.
        """
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.bias = layer.in_features, layer.out_features, layer.bias
        self.register_buffer("scale", scale.float())
        spread = spread_of(scale.float(), self.in_features)
        steps = layer.weight.detach().float() / spread
        self.weight = nn.Parameter(steps.clamp(integers - INSIDE, integers + INSIDE) * spread)

    def rounded(self) -> Tensor:
        """The weights q s; the gradient passes to those that are not beyond the ends."""
        scale: Any = self.scale
        spread = spread_of(scale, self.in_features)
        steps = (self.weight / spread).clamp(LOW - INSIDE, HIGH + INSIDE)
        return (steps + (steps.round() - steps).detach()) * spread

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.rounded().to(input.dtype), self.bias)


def spread_of(scale: Tensor, width: int) -> Tensor:
    """The scale of each weight: (out, groups) -> (out, width)."""
    return scale.repeat_interleave(width // scale.shape[1], 1)


def put_in(model: Any, export: Path) -> None:
    """Replaces the layers that an export has in 4 bits; no other weight of the model is trained.

    Raises UserError where the export is not one of this model.
    """
    model.requires_grad_(False)
    for name, integers, scale in _layers(export):
        layer = model.get_submodule(name)
        device = layer.weight.device
        if layer.weight.shape != integers.shape:
            raise UserError(f"{export}: its layer {name} has another shape than the student's")
        model.set_submodule(name, RoundedLinear(layer, integers.to(device), scale.to(device)))


def write(state: Mapping[str, Tensor], export: Path, folder: Path) -> None:
    """Writes an export with the integers of a trained state; all other files and tensors are copied."""
    shutil.copytree(export, folder)
    for file in sorted(folder.glob("*.safetensors")):
        tensors = load_file(file)
        for key in [key for key in tensors if key.endswith(PACKED)]:
            name = key.removesuffix(PACKED)
            weight, scale = state[f"{name}.weight"].cpu(), state[f"{name}.scale"].cpu()
            steps = (weight / spread_of(scale, weight.shape[1])).clamp(LOW - INSIDE, HIGH + INSIDE)
            tensors[key] = pack(steps.round().to(torch.int32))
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata()
        save_file(tensors, file, metadata)


def _layers(export: Path) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, integers (out, in) and scales (out, groups) of each layer. Raises UserError if there is none."""
    found = False
    for file in sorted(export.glob("*.safetensors")):
        tensors = load_file(file)
        for name in (key.removesuffix(PACKED) for key in tensors if key.endswith(PACKED)):
            found = True
            width = int(tensors[f"{name}.weight_shape"][1])
            yield name, unpack(tensors[f"{name}{PACKED}"], width), tensors[f"{name}{SCALE}"]
    if not found:
        raise UserError(f"{export}: no layer of it is in 4 bits")


def unpack(packed: Tensor, width: int) -> Tensor:
    """Integers -8 ... 7 of a packed matrix: (out, ceil(in / 8)) int32 -> (out, in) int32."""
    integers = (packed[..., None] >> _SHIFTS) & 15
    return integers.flatten(-2)[:, :width] + LOW


def pack(integers: Tensor) -> Tensor:
    """The inverse of unpack()."""
    padded = F.pad(integers - LOW, (0, -integers.shape[1] % 8))
    return (padded.unflatten(1, (-1, 8)) << _SHIFTS).sum(-1, dtype=torch.int32)
