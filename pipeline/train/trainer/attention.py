"""Attention for packed batches: each document by itself, with what PyTorch brings.

With scaled_dot_product_attention as it comes, a packed row is one long text under a mask, and its cost grows
with the square of all of it. Here it grows with the squares of the documents, as with padded batches, and no
document can see another. On a GPU in bfloat16 one kernel takes all documents at once; elsewhere they are
taken one after the other. Leaves out padded batches, which go the usual way.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BY_DOCUMENT = "sdpa_by_document"


def for_packing() -> str:
    """The attention that packed batches want, as transformers names it."""
    AttentionInterface.register(BY_DOCUMENT, attend)
    AttentionMaskInterface.register(BY_DOCUMENT, sdpa_mask)
    return BY_DOCUMENT


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query, key, value (B, heads, L, d) -> (B, L, heads, d), as transformers calls an attention function.

    cu_seq_lens_q (documents + 1,), where TRL's collator packed: where documents begin, and L; then B is 1
    and max_length_q the tokens of the longest.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        padded: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return padded
    dtype = _computed_in(query)
    unknown = kwargs.get("dropout") or kwargs.get("softcap")  # to the kernel
    if query.device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and not unknown:
        q, k, v = (x.squeeze(0).transpose(0, 1).to(dtype) for x in (query, key, value))
        window = (-1 if sliding_window is None else sliding_window - 1, 0)  # to the left, to the right
        ends, longest = cu_seq_lens_q, max_length_q
        how: dict[str, Any] = {"scale": kwargs.get("scaling"), "window_size": window, "enable_gqa": True}
        made: Any = varlen_attn(q, k, v, ends, ends, longest, longest, **how)
        return made.unsqueeze(0), None
    parts = []
    for start, end in pairwise(cu_seq_lens_q.tolist()):
        q, k, v = (x[:, :, start:end] for x in (query, key, value))
        mask = _window(end - start, sliding_window, query.device)
        parts.append(sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0])
    return torch.cat(parts, dim=1), None


def _computed_in(query: Tensor) -> torch.dtype:
    """What autocast would cast to: rotary embeddings leave float32 behind, which no kernel of ours takes."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """(1, 1, length, length) for a model that looks back so far only; None where that is all."""
    if window is None or length <= window:
        return None
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril().triu(1 - window)
