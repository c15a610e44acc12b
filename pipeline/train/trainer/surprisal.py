"""Reads texts with a causal language model: the surprisal and the rank of each token.

Neither all logits of a text nor float32 copies of many are in memory at once. A long text is read in chunks
that attend to the keys and values of the chunks before them, which gives the same logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

LOGITS = 2**27  # in one forward pass: 256 MiB in bfloat16
SLICE = 2**25  # of them in float32 at once: 128 MiB


class Text(NamedTuple):
    ids: NDArray[np.int32]
    first: int  # position from which tokens are measured; at least 1, since nothing predicts the first token


class Reading(NamedTuple):
    """Of the n measured tokens of a text."""

    surprisals: NDArray[np.float64]  # (n,) negative log-likelihoods in nats
    ranks: NDArray[np.int64]  # (n,) 1 for the likeliest of all tokens; equal ones share the better rank


def surprisals_and_ranks(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(N, V) logits of any dtype, token ids (N,) -> (N,) float32 or float64, and (N,) int64."""
    rows = max(1, SLICE // logits.shape[-1])
    parts = [_of_slice(z, y) for z, y in zip(logits.split(rows), targets.split(rows), strict=True)]
    return torch.cat([s for s, _ in parts]), torch.cat([r for _, r in parts])


def _of_slice(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    said = wide.gather(1, targets[:, None])
    return (wide.logsumexp(-1, keepdim=True) - said).squeeze(1), 1 + (wide > said).sum(-1)


def read(model: PreTrainedModel, texts: Sequence[Text], batch_tokens: int) -> Iterator[tuple[int, Reading]]:
    """Yields the number of each text with its reading; texts of similar length are read together."""
    order = sorted(range(len(texts)), key=lambda n: len(texts[n].ids))
    while order:
        longest = len(texts[order[-1]].ids)
        batch = order[-max(1, batch_tokens // longest) :]  # the longest first: a lack of memory shows at once
        del order[-len(batch) :]
        yield from zip(batch, _read_batch(model, [texts[n] for n in batch]), strict=True)


@torch.inference_mode()
def _read_batch(model: PreTrainedModel, texts: Sequence[Text]) -> list[Reading]:
    ids, mask = _padded(texts, model.device)
    measured = torch.zeros_like(mask)
    for row, text in enumerate(texts):
        measured[row, text.first - 1 : len(text.ids) - 1] = 1  # position n predicts token n + 1
    surprisals = torch.zeros(ids.shape, dtype=torch.float64)
    ranks = torch.zeros(ids.shape, dtype=torch.int64)
    for start, logits, positions in _forward(model, ids, mask, measured.any(0)):
        rows, columns = measured[:, start + positions].nonzero(as_tuple=True)
        at = start + positions[columns]
        found = surprisals_and_ranks(logits[rows, columns], ids[rows, at + 1])
        where = rows.cpu(), at.cpu()
        surprisals[where], ranks[where] = found[0].double().cpu(), found[1].cpu()
    spans = [slice(text.first - 1, len(text.ids) - 1) for text in texts]
    return [
        Reading(surprisals[row, span].numpy(), ranks[row, span].numpy()) for row, span in enumerate(spans)
    ]


def _padded(texts: Sequence[Text], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (B, L), padded at the end with a token that nothing attends to."""
    shape = len(texts), max(len(text.ids) for text in texts)
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text.ids)], mask[row, : len(text.ids)] = text.ids, 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def _forward(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, wanted: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yields (start of a chunk, logits (B, p, V) at p wanted positions, these positions in the chunk)."""
    size = max(1, LOGITS // (len(ids) * model.config.get_text_config().vocab_size))
    past: dict[str, Any] = {"use_cache": size < ids.shape[1]}
    for start in range(0, ids.shape[1], size):
        end = min(start + size, ids.shape[1])
        positions = wanted[start:end].nonzero().squeeze(1)
        keep = positions if len(positions) else torch.tensor([0], device=ids.device)
        output = model(input_ids=ids[:, start:end], attention_mask=mask[:, :end], logits_to_keep=keep, **past)
        past["past_key_values"] = output.past_key_values
        if len(positions):
            yield start, output.logits, positions
