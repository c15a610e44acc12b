"""[train.features]: the student's hidden states follow those of its teacher at mapped layers.

FitNets (Romero et al. 2015, arXiv 1412.6550), PKD (Sun et al. 2019, arXiv 1908.09355), TinyBERT (Jiao et al.
2020, arXiv 1909.10351). Where widths differ, a learned linear map W takes the student's states to the
teacher's width; it is trained with the student and dropped from the saved model.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 4096  # tokens at once: float32 copies of their hidden states exist only for them


def projections(count: int, student: int, teacher: int, seed: int) -> torch.nn.ModuleList:
    """A map for each pair of layers, from one width to the other; none where the widths are equal.

    Equal seeds give equal maps; the random state stays as it is.
    """
    if student == teacher:
        return torch.nn.ModuleList()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.ModuleList(torch.nn.Linear(student, teacher, bias=False) for _ in range(count))


def feature_loss(kind: str, student: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
    """The distance of W h_s and h_t at each token: (N, h), (N, h_t) -> (N,).

    "mse": ||W h_s - h_t||^2 / h_t; "cosine": 1 - cos(W h_s, h_t). weight: W (h_t, h), None for the identity.
    """
    parts = [
        checkpoint(_of_chunk, kind, s, t, weight, use_reentrant=False, preserve_rng_state=False)
        for s, t in zip(student.split(CHUNK), teacher.detach().split(CHUNK), strict=True)
    ]
    return torch.cat(parts)


def _of_chunk(kind: str, student: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
    mapped = student if weight is None else F.linear(student.to(weight.dtype), weight)
    wide = torch.promote_types(mapped.dtype, torch.float32)
    ours, theirs = mapped.to(wide), teacher.to(wide)
    if kind == "cosine":
        return 1 - F.cosine_similarity(ours, theirs, dim=-1)
    return (ours - theirs).square().mean(-1)
