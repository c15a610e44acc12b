"""[train.attention_transfer]: the student attends as its teacher does, at chosen layers.

Maps: Zagoruyko and Komodakis 2017, arXiv 1612.03928; TinyBERT, Jiao et al. 2020, arXiv 1909.10351.
Relations: MiniLM, Wang et al. 2020, arXiv 2002.10957, with the relation heads of MiniLMv2, arXiv 2012.15828.
Maps are made from recorded queries, keys and values (capture.py), for a block of query rows at a time and
once more for the gradient, inside each document, causally, and only for query rows that predict a token with
loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipeline.train.trainer.capture import AttentionInputs
from pipeline.train.trainer.documents import Document
from pipeline.train.trainer.losses import kl

BLOCK = 2**25  # numbers of a block of maps, over all heads: 128 MiB for each float32 copy
MASKED = -1e30  # finite, as 0 x infinity is not a number


class Side(NamedTuple):
    """One model's attention inside one document: a, b (heads, n, d); scores are scale a b^T."""

    a: Tensor
    b: Tensor
    scale: float
    window: int | None = None
    softcap: float | None = None


def attention_loss(
    kind: str,
    student: AttentionInputs,
    teacher: AttentionInputs,
    found: Sequence[Document],
    rows: Tensor,
    relation_heads: int,
) -> Tensor:
    """The distance of the two attentions at each query row with loss, in the order of rows.nonzero(): (N,).

    rows (B, L): which positions predict a token with loss. "kl": KL(A_t || A_s) of the maps, after the mean
    over heads; "l2": ||A_s / |A_s| - A_t / |A_t|||^2 of the same; "minilm": the mean over relation heads of
    KL of softmax(Q K^T / sqrt d) plus that of softmax(V V^T / sqrt d).
    """
    values = [rows.new_zeros(0, dtype=torch.float32)]
    for document in found:
        inside = rows[document.row, document.start : document.end].nonzero().squeeze(1)
        ours, theirs = (_sides(kind, x, document, relation_heads) for x in (student, teacher))
        heads = max(side.a.shape[0] for side in (*ours, *theirs))
        per_block = max(1, BLOCK // (heads * max(1, document.end - document.start)))
        for block in inside.split(per_block) if len(inside) else ():
            values.append(_of_block(kind, ours, theirs, block))
    return torch.cat(values)


def _of_block(kind: str, student: Sequence[Side], teacher: Sequence[Side], block: Tensor) -> Tensor:
    """The sum over the sides' relations, at these query rows of a document."""
    last = int(block[-1]) + 1  # causal: no key after it
    total = block.new_zeros(len(block), dtype=torch.float32)
    for ours, theirs in zip(student, teacher, strict=True):
        made: Tensor = checkpoint(
            _distance,
            kind,
            _shortened(ours, block, last),
            _shortened(theirs, block, last),
            block,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        total = total + made
    return total


def _shortened(side: Side, block: Tensor, last: int) -> Side:
    return side._replace(a=side.a[:, block], b=side.b[:, :last])


def _distance(kind: str, student: Side, teacher: Side, block: Tensor) -> Tensor:
    with torch.no_grad():
        theirs = _log_maps(teacher, block)
    ours = _log_maps(student, block)
    if kind == "minilm":
        return kl(theirs, ours).mean(0)
    ours, theirs = _mean_of_heads(ours), _mean_of_heads(theirs)
    if kind == "kl":
        return kl(theirs, ours)
    return (_normal(ours.exp()) - _normal(theirs.exp())).square().sum(-1)


def _log_maps(side: Side, block: Tensor) -> Tensor:
    """Log of the attention of query rows `block` to all keys, in float32: (heads, rows, keys)."""
    wide = torch.promote_types(side.a.dtype, torch.float32)
    scores = side.scale * side.a.to(wide) @ side.b.to(wide).transpose(1, 2)
    if side.softcap is not None:
        scores = side.softcap * torch.tanh(scores / side.softcap)
    back = block[:, None] - torch.arange(scores.shape[-1], device=block.device)
    hidden = back < 0
    if side.window is not None:
        hidden = hidden | (back >= side.window)
    return scores.masked_fill(hidden, MASKED).log_softmax(-1)


def _mean_of_heads(log_maps: Tensor) -> Tensor:
    return log_maps.logsumexp(0) - math.log(len(log_maps))


def _normal(maps: Tensor) -> Tensor:
    return maps / maps.norm(dim=-1, keepdim=True)


def _sides(kind: str, inputs: AttentionInputs, document: Document, relation_heads: int) -> list[Side]:
    """What is compared: queries with keys; for MiniLM also values with themselves."""
    query, key, value = (
        x[document.row, :, document.start : document.end] for x in (inputs.query, inputs.key, inputs.value)
    )
    key = key.repeat_interleave(len(query) // len(key), 0)
    if kind != "minilm":
        return [Side(query, key, inputs.scale, inputs.window, inputs.softcap)]
    query, key, value = (_regrouped(x, relation_heads) for x in (query, key, value))
    return [
        Side(query, key, query.shape[-1] ** -0.5, inputs.window),
        Side(value, value, value.shape[-1] ** -0.5, inputs.window),
    ]


def _regrouped(x: Tensor, heads: int) -> Tensor:
    """Heads (H, n, d) joined and split into another number of them: (heads, n, H d / heads)."""
    joined = x.transpose(0, 1).flatten(1)
    return joined.unflatten(1, (heads, -1)).transpose(0, 1)


def relation_width(inputs: AttentionInputs) -> int:
    """What the number of relation heads must divide: the joined widths of queries and of values."""
    return math.gcd(*(x.shape[1] * x.shape[3] for x in (inputs.query, inputs.value)))


def default_heads(widths: Sequence[int], most: int) -> int:
    """The largest number of relation heads, up to the student's, that divides the widths of both models.

    Values of grouped-query attention are narrower than queries: of 12 heads with 2 key-value heads, each 128
    wide, it is 8.
    """
    return max(heads for heads in range(1, most + 1) if math.gcd(*widths) % heads == 0)
