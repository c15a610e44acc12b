"""Losses over a vocabulary without all logits: the output layer is multiplied slice by slice.

Logits (n, V) exist for one slice of tokens at a time, in the forward pass and once more in the backward pass,
where the gradient of the output layer is summed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pipeline.train.memory import SLICE
from pipeline.train.trainer.heads import Head


def tiled(of_slice: Callable[..., Tensor], hidden: Tensor, head: Head, *others: Tensor) -> Tensor:
    """of_slice(logits, *others) over slices of tokens: hidden (N, h), others (N, ...) -> (N,).

    of_slice maps logits (n, V) and the same n rows of the others to a number for each token. Hidden states
    and output layer get gradients, the others none. The product has the dtype that autocast would use.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    made: Any = _Tiles.apply(of_slice, head, dtype, hidden, head.weight, head.bias, *others)
    return torch.as_tensor(made)


def slices(vocabulary: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Rows of the tensors, so many at once that their logits fill a slice; one empty slice for no rows."""
    return zip(*(x.split(max(1, SLICE // vocabulary)) for x in tensors), strict=True)


class _Tiles(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        of_slice: Callable[..., Tensor],
        head: Head,
        dtype: torch.dtype,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *others: Tensor,
    ) -> Tensor:
        ctx.of_slice, ctx.head, ctx.dtype = of_slice, head, dtype
        ctx.save_for_backward(hidden, weight, bias, *others)
        narrow = _narrowed(head, weight, bias, dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            return torch.cat(
                [
                    of_slice(narrow.finished(narrow.product(h, dtype)), *rest)
                    for h, *rest in slices(head.vocabulary, hidden, *others)
                ]
            )

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        hidden, weight, bias, *others = ctx.saved_tensors
        of_slice, head, dtype = ctx.of_slice, ctx.head, ctx.dtype
        wide = torch.promote_types(dtype, torch.float32)
        parts = []
        of_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[4] else None
        of_bias = torch.zeros_like(bias, dtype=wide) if bias is not None and ctx.needs_input_grad[5] else None
        with head.whole(), torch.autocast(hidden.device.type, enabled=False):
            narrow = _narrowed(head, weight, bias, dtype)
            for h, incoming, *rest in slices(head.vocabulary, hidden, gradients[0], *others):
                product = narrow.product(h, dtype).detach().requires_grad_()
                with torch.enable_grad():
                    values = of_slice(narrow.finished(product), *rest)
                (found,) = torch.autograd.grad(values, product, incoming)
                parts.append((found @ narrow.weight).to(hidden.dtype))
                if of_weight is not None:
                    _add_product(of_weight, found.t(), h.to(dtype))
                if of_bias is not None:
                    of_bias += found.sum(0, dtype=wide)
        of_weight = None if of_weight is None else of_weight.to(weight.dtype)
        of_bias = None if of_bias is None else of_bias.to(bias.dtype)
        return None, None, None, torch.cat(parts), of_weight, of_bias, *(None for _ in others)


def _narrowed(head: Head, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Head:
    """The head with weights converted once instead of once a slice."""
    return Head(
        weight.detach().to(dtype),
        None if bias is None else bias.detach().to(dtype),
        head.scale,
        head.softcap,
    )


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a b, where total may be wider than a and b."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
