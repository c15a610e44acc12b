"""Attention for packed batches in which each document attends to itself alone, without extra packages.

With scaled_dot_product_attention, transformers computes a packed row as one long text under a mask, at a cost
quadratic in its length. Here the cost is quadratic in the lengths of the documents, as with padded batches.
On a GPU in bfloat16 one kernel computes all documents; elsewhere they are computed one by one. Padded batches
take the usual path.
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
    """Registers this attention with transformers and returns its name."""
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
    """query, key, value (B, heads, L, d) -> (B, L, heads, d), with transformers' attention signature.

    For packed batches TRL's collator sets cu_seq_lens_q (documents + 1,), the start of each document and L,
    and max_length_q, the longest document's tokens; then B is 1.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        padded: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
        return padded
    dtype = _autocast_dtype(query)
    unsupported = kwargs.get("dropout") or kwargs.get("softcap")  # by the kernel
    if query.device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and not unsupported:
        q, k, v = (x.squeeze(0).transpose(0, 1).to(dtype) for x in (query, key, value))
        window = (-1 if sliding_window is None else sliding_window - 1, 0)  # to the left, to the right
        starts, longest = cu_seq_lens_q, max_length_q
        options: dict[str, Any] = {"scale": kwargs.get("scaling"), "window_size": window, "enable_gqa": True}
        output: Any = varlen_attn(q, k, v, starts, starts, longest, longest, **options)
        return output.unsqueeze(0), None
    outputs = []
    for start, end in pairwise(cu_seq_lens_q.tolist()):
        q, k, v = (x[:, :, start:end] for x in (query, key, value))
        mask = _window_mask(end - start, sliding_window, query.device)
        outputs.append(sdpa_attention_forward(module, q, k, v, mask, **kwargs)[0])
    return torch.cat(outputs, dim=1), None


def _autocast_dtype(query: Tensor) -> torch.dtype:
    """The dtype that autocast would use: rotary embeddings produce float32, which the kernel rejects."""
    kind = query.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype


def _window_mask(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """(1, 1, length, length) for sliding-window attention; None where the window covers the document."""
    if window is None or length <= window:
        return None
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=device).tril().triu(1 - window)
