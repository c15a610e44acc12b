"""Distillation losses as pure functions of logits, one number (in nats) for each token.

z_s and z_t are the student's and the teacher's logits (N, V) at the same N positions of a text;
p = softmax(z_t / T) and q = softmax(z_s / T). Inputs, usually bfloat16, are computed in float32 (float64
stays). tiles.py calls these functions with slices of the tokens, so N is small. The teacher's logits must be
finite and get no gradient. The trainer takes the mean over tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

LOG_ZERO = -1e30  # the log of probability 0: finite, since 0 x infinity is not a number


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(z_s)[y]: (N, V), token ids y (N,) -> (N,).

    On a teacher's text this is sequence-level distillation (Kim and Rush 2016, arXiv 1606.07947).
    """
    return F.cross_entropy(_widened(logits), targets, reduction="none")


def divergence(name: str, student: Tensor, teacher: Tensor, beta: float, temperature: float = 1) -> Tensor:
    """The divergence DIVERGENCES[name] of p and q: (N, V), (N, V) -> (N,); `beta`: weight in a mixture."""
    log_p, log_q = ((_widened(z) / temperature).log_softmax(-1) for z in (teacher.detach(), student))
    return DIVERGENCES[name](log_p, log_q, beta)


def topk_kl(student: Tensor, top_ids: Tensor, top_logprobs: Tensor, temperature: float = 1) -> Tensor:
    """KL(P || Q) over K + 1 buckets, from the K most likely tokens that were stored of a teacher: -> (N,).

    student (N, V) logits; top_ids (N, K) distinct ids below V, padded with -1; top_logprobs (N, K) natural
    logs, at temperature 1 and over the teacher's whole vocabulary. Each of the K tokens is a bucket; all
    other tokens together are one more, with the mass that the K leave. Nothing is renormalized, so mass that
    the student moves from the K tokens to others is penalized. A position without tokens gives 0; with K = V
    this is the forward KL.

    T != 1 tempers the buckets: P^(1/T) and Q^(1/T), each divided by its sum, so the rest of the vocabulary is
    tempered as one token. Tempering each token first is another divergence, which needs the teacher's whole
    distribution. The mass of the rest is as exact as the stored log-probabilities (five decimals: about
    1e-5). A high T magnifies the error: 1e-5 becomes 0.003 at T = 2 and 0.06 at T = 4, before the division.
    """
    z = _widened(student)
    log_p = _teacher_buckets(top_ids, top_logprobs.detach().to(z.dtype), z.shape[-1])
    log_q = _student_buckets(z, top_ids)
    return kl((log_p / temperature).log_softmax(-1), (log_q / temperature).log_softmax(-1))


def combine(alpha: float | Tensor, temperature: float, divergence: Tensor, ce: Tensor) -> Tensor:
    """alpha T^2 D + (1 - alpha) CE, token by token: (N,), (N,) -> (N,); alpha is a number or (N,).

    The gradient of D by the logits shrinks as 1 / T^2; the factor restores it (Hinton et al. 2015).
    """
    return alpha * temperature**2 * divergence + (1 - alpha) * ce


def _teacher_buckets(ids: Tensor, logprobs: Tensor, vocabulary: int) -> Tensor:
    """Log-probabilities (N, K + 1) of the K tokens and of the rest.

    The rest is 0 where rounding makes it negative, and where the K are the whole vocabulary.
    """
    named = logprobs.masked_fill(ids < 0, LOG_ZERO)
    rest = -torch.expm1(named.logsumexp(-1, keepdim=True))
    none = (rest <= 0) | ((ids >= 0).sum(-1, keepdim=True) == vocabulary)
    return torch.cat([named, rest.log().masked_fill(none, LOG_ZERO)], -1)


def _student_buckets(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities (N, K + 1); the rest is summed over its tokens, as 1 - the others loses precision."""
    vocabulary = logits.shape[-1]
    named_mask = logits.new_zeros((len(logits), vocabulary + 1), dtype=torch.bool)
    named_mask.scatter_(1, ids.masked_fill(ids < 0, vocabulary), True)  # the last column takes the padding
    rest = logits.masked_fill(named_mask[:, :vocabulary], LOG_ZERO).logsumexp(-1, keepdim=True)
    named = logits.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, LOG_ZERO)
    return torch.cat([named, rest], -1) - logits.logsumexp(-1, keepdim=True)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) over the last dimension, of log-probabilities."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _log_mixture(log_a: Tensor, log_b: Tensor, beta: float) -> Tensor:
    """log(beta a + (1 - beta) b)."""
    return torch.logaddexp(log_a + math.log(beta), log_b + math.log1p(-beta))


def _widened(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _jsd(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    log_m = _log_mixture(log_p, log_q, beta)
    return beta * kl(log_p, log_m) + (1 - beta) * kl(log_q, log_m)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    # KL(p || q). Mass-covering. Hinton et al. 2015, arXiv 1503.02531.
    "forward_kl": lambda log_p, log_q, beta: kl(log_p, log_q),
    # KL(q || p). Mode-seeking. MiniLLM, Gu et al. 2023, arXiv 2306.08543.
    "reverse_kl": lambda log_p, log_q, beta: kl(log_q, log_p),
    # KL(p || beta p + (1 - beta) q), the forward KL as beta -> 0. DistiLLM, Ko et al. 2024, arXiv 2402.03898.
    "skew_kl": lambda log_p, log_q, beta: kl(log_p, _log_mixture(log_p, log_q, beta)),
    # KL(q || beta q + (1 - beta) p), the reverse KL as beta -> 0. DistiLLM.
    "skew_reverse_kl": lambda log_p, log_q, beta: kl(log_q, _log_mixture(log_q, log_p, beta)),
    # beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q. Generalized Jensen-Shannon (GKD,
    # Agarwal et al. 2023, arXiv 2306.13649). It vanishes at both ends: divided by beta it goes to the forward
    # KL as beta -> 0, divided by 1 - beta to the reverse KL as beta -> 1.
    "jsd": _jsd,
}
