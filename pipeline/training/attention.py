"""Attention for packed batches where no kernel for them is installed: each document by itself.

With scaled_dot_product_attention as it comes, a packed row is one long text under a mask, and its cost grows
with the square of all of it. Here it grows with the squares of the documents, as with padded batches, and no
document can see another. Leaves out padded batches, which go the usual way.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.utils import is_flash_attn_2_available

BY_DOCUMENT = "sdpa_by_document"


def for_packing() -> str:
    """The attention that packed batches want here, as transformers names it."""
    if torch.cuda.is_available() and is_flash_attn_2_available():
        return "flash_attention_2"
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
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query, key, value (B, heads, L, d) -> (B, L, heads, d), as transformers calls an attention function.

    cu_seq_lens_q (documents + 1,), where TRL's collator packed: where documents begin, and L; then B is 1.
    """
    if cu_seq_lens_q is None:
        padded: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return padded
    parts = []
    for start, end in pairwise(cu_seq_lens_q.tolist()):
        q, k, v = (x[:, :, start:end] for x in (query, key, value))
        mask = _window(end - start, sliding_window, query.device)
        parts.append(sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0])
    return torch.cat(parts, dim=1), None


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """(1, 1, length, length) for a model that looks back so far only; None where that is all."""
    if window is None or length <= window:
        return None
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril().triu(1 - window)
