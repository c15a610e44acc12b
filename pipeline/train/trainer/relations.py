"""[train.relations]: examples of a batch relate to each other as they do for the teacher.

An example is the mean of its hidden states at the tokens with loss. A batch is the micro batches of all
devices together: examples of different micro batches of a step never meet.
RKD: Park et al. 2019, arXiv 1904.05068. Similarity-preserving: Tung and Mori 2019, arXiv 1907.09682.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-12  # of squared distances: equal examples have no direction, and no gradient


def pooled(hidden: Tensor, numbers: Tensor, count: int) -> Tensor:
    """The mean of the hidden states (N, h) of each of `count` documents, in float32: (count, h).

    numbers (N,): the document of each token. Documents without a token give 0.
    """
    wide = torch.promote_types(hidden.dtype, torch.float32)
    total = hidden.new_zeros((count, hidden.shape[-1]), dtype=wide).index_add(0, numbers, hidden.to(wide))
    return total / torch.bincount(numbers, minlength=count).clamp(min=1)[:, None]


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-D: Huber loss of the distances, each divided by their mean, over pairs: (B, h), (B, h_t) -> ()."""
    ours, theirs = (_distances(x) for x in (student, teacher.detach()))
    apart = ~torch.eye(len(student), dtype=torch.bool, device=student.device)
    return F.smooth_l1_loss(_scaled(ours[apart]), _scaled(theirs[apart]))


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD-A: Huber loss of the cosines of the angles at j between i and k, over triples that differ."""
    ours, theirs = (_cosines(x) for x in (student, teacher.detach()))
    same = torch.eye(len(student), dtype=torch.bool, device=student.device)
    apart = ~(same[:, :, None] | same[:, None, :] | same[None, :, :])
    return F.smooth_l1_loss(ours[apart], theirs[apart])


def similarity_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """||G_s - G_t||_F^2 / B^2 of the Gram matrices X X^T, each row divided by its norm."""
    ours, theirs = (F.normalize(x @ x.T, dim=1) for x in (student, teacher.detach()))
    return (ours - theirs).square().mean()


RELATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "distance": distance_loss,
    "angle": angle_loss,
    "similarity": similarity_loss,
}

LEAST = {"distance": 3, "angle": 3, "similarity": 2}  # examples: of two, the scaled distance is always 1


def _distances(x: Tensor) -> Tensor:
    return (x[:, None] - x[None]).square().sum(-1).clamp(min=TINY).sqrt()


def _scaled(distances: Tensor) -> Tensor:
    return distances / distances.mean().clamp(min=TINY)


def _cosines(x: Tensor) -> Tensor:
    """cos of the angle at vertex j of i and k: (B, B, B), indexed j, i, k."""
    direction = (x[None] - x[:, None]) / _distances(x)[..., None]
    return torch.einsum("jih,jkh->jik", direction, direction)
