"""Where the examples of a micro batch are: padded, one a row; packed, end to end in one row."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Document(NamedTuple):
    """The tokens start to end of a row of the batch."""

    row: int
    start: int
    end: int


def documents(inputs: Mapping[str, Any]) -> list[Document]:
    """The examples of a batch, from the inputs of a forward pass as TRL's collator makes them."""
    if (starts := inputs.get("cu_seq_lens_q")) is not None:
        return [Document(0, start, end) for start, end in pairwise(starts.tolist())]
    if (positions := inputs.get("position_ids")) is not None and "attention_mask" not in inputs:
        starts = (positions[0] == 0).nonzero().squeeze(1).tolist()
        return [Document(0, start, end) for start, end in pairwise([*starts, positions.shape[1]])]
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    if mask is None:
        return [Document(row, 0, ids.shape[1]) for row in range(ids.shape[0])]
    first, count = mask.argmax(1).tolist(), mask.sum(1).tolist()
    return [Document(row, a, a + n) for row, (a, n) in enumerate(zip(first, count, strict=True))]


def numbered(found: list[Document], shape: torch.Size, device: torch.device) -> Tensor:
    """The number of each token's document (B, L); -1 for padding."""
    numbers = torch.full(shape, -1, device=device)
    for number, document in enumerate(found):
        numbers[document.row, document.start : document.end] = number
    return numbers
