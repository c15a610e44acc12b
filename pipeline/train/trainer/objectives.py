"""What the student is asked to make small, as pure functions of logits: one number for each token.

z_s and z_t are the student's and the teacher's logits (N, V) at the same N positions of a text;
p = softmax(z_t / T) and q = softmax(z_s / T). Whatever comes in, bfloat16 as a rule, is computed in float32
(float64 stays), in slices of the N positions whose insides are computed again for the gradient: of those
float32 copies of (N, V) only one slice's are ever in memory. The teacher's logits are finite and get no
gradient. Leaves out the mean over tokens, which is the trainer's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

SLICE = 2**25  # logits at once: 128 MiB for each float32 copy of them
ABSENT = -1e30  # the log-probability of what cannot be: finite, as 0 x infinity is no number


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(z_s)[y]: (N, V), token ids y (N,) -> (N,).

    On a teacher's text this is sequence-level distillation (Kim and Rush 2016, arXiv 1606.07947).
    """
    return _in_slices(lambda z, y: F.cross_entropy(_wide(z), y, reduction="none"), logits, targets)


def forward_kl(student: Tensor, teacher: Tensor, temperature: float = 1) -> Tensor:
    """KL(p || q): (N, V), (N, V) -> (N,). Covers all that the teacher might say.

    Hinton et al. 2015, arXiv 1503.02531.
    """
    return _in_slices(lambda s, t: _kl(*_log_p_q(s, t, temperature)), student, teacher.detach())


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1) -> Tensor:
    """KL(q || p): (N, V), (N, V) -> (N,). Seeks what the teacher would surely say.

    MiniLLM, Gu et al. 2023, arXiv 2306.08543.
    """

    def of_slice(s: Tensor, t: Tensor) -> Tensor:
        log_p, log_q = _log_p_q(s, t, temperature)
        return _kl(log_q, log_p)

    return _in_slices(of_slice, student, teacher.detach())


def skew_kl(student: Tensor, teacher: Tensor, beta: float, temperature: float = 1) -> Tensor:
    """KL(p || beta p + (1 - beta) q): (N, V), (N, V) -> (N,); as beta -> 0 the forward KL.

    DistiLLM, Ko et al. 2024, arXiv 2402.03898.
    """

    def of_slice(s: Tensor, t: Tensor) -> Tensor:
        log_p, log_q = _log_p_q(s, t, temperature)
        return _kl(log_p, _log_mixture(log_p, log_q, beta))

    return _in_slices(of_slice, student, teacher.detach())


def skew_reverse_kl(student: Tensor, teacher: Tensor, beta: float, temperature: float = 1) -> Tensor:
    """KL(q || beta q + (1 - beta) p): (N, V), (N, V) -> (N,); as beta -> 0 the reverse KL (DistiLLM)."""

    def of_slice(s: Tensor, t: Tensor) -> Tensor:
        log_p, log_q = _log_p_q(s, t, temperature)
        return _kl(log_q, _log_mixture(log_q, log_p, beta))

    return _in_slices(of_slice, student, teacher.detach())


def jsd(student: Tensor, teacher: Tensor, beta: float, temperature: float = 1) -> Tensor:
    """beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q: (N, V), (N, V) -> (N,).

    Generalized Jensen-Shannon (GKD, Agarwal et al. 2023, arXiv 2306.13649), 0 < beta < 1. It vanishes at both
    ends: divided by beta it goes to the forward KL as beta -> 0, divided by 1 - beta to the reverse KL as
    beta -> 1.
    """

    def of_slice(s: Tensor, t: Tensor) -> Tensor:
        log_p, log_q = _log_p_q(s, t, temperature)
        log_m = _log_mixture(log_p, log_q, beta)
        return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)

    return _in_slices(of_slice, student, teacher.detach())


def topk_kl(student: Tensor, top_ids: Tensor, top_logprobs: Tensor, temperature: float = 1) -> Tensor:
    """KL(P || Q) over K + 1 buckets, from the K likeliest tokens of a teacher that is not here: -> (N,).

    student (N, V) logits; top_ids (N, K) distinct ids below V, -1 fills up; top_logprobs (N, K) natural, at
    temperature 1 and over the teacher's whole vocabulary. Each named token is a bucket, and all others
    together are one more: the teacher's has the mass that its K leave, the student's what it gives to all
    tokens but those K. So nothing is renormalised, and mass that the student takes from the K for others
    costs it. A position without a named token gives 0; with K = V it is the forward KL.

    T != 1 tempers the buckets, P^(1/T) and Q^(1/T) each divided by its sum, and so the rest of the vocabulary
    as if it were one token. Tempering each token first is another divergence, which needs the teacher's whole
    distribution and cannot be had from K of it. The rest is known only as exactly as the log-probabilities
    were kept (five decimals: to about 1e-5), which a high T magnifies: 1e-5 becomes 0.003 at T = 2 and 0.06
    at T = 4, before the division.
    """

    def of_slice(z: Tensor, ids: Tensor, logprobs: Tensor) -> Tensor:
        return _kl(
            (_teacher_buckets(ids, logprobs.to(_wide(z).dtype), z.shape[-1]) / temperature).log_softmax(-1),
            (_student_buckets(_wide(z), ids) / temperature).log_softmax(-1),
        )

    return _in_slices(of_slice, student, top_ids, top_logprobs.detach())


def combine(alpha: float | Tensor, temperature: float, divergence: Tensor, ce: Tensor) -> Tensor:
    """alpha T^2 D + (1 - alpha) CE, token by token: (N,), (N,) -> (N,); alpha one number or (N,).

    The gradient of D by the logits shrinks as 1 / T^2; the factor restores it (Hinton et al. 2015).
    """
    return alpha * temperature**2 * divergence + (1 - alpha) * ce


def _teacher_buckets(ids: Tensor, logprobs: Tensor, vocabulary: int) -> Tensor:
    """Log-probabilities (N, K + 1) of the named tokens and of the rest; rounding may leave less than none.

    Where every token is named there is no rest, whatever rounding leaves.
    """
    named = logprobs.masked_fill(ids < 0, ABSENT)
    rest = -torch.expm1(named.logsumexp(-1, keepdim=True))
    none = (rest <= 0) | ((ids >= 0).sum(-1, keepdim=True) == vocabulary)
    return torch.cat([named, rest.log().masked_fill(none, ABSENT)], -1)


def _student_buckets(logits: Tensor, ids: Tensor) -> Tensor:
    """The same of logits (N, V). The rest is summed over all other tokens: 1 - the named would lose it."""
    vocabulary = logits.shape[-1]
    taken = logits.new_zeros((len(logits), vocabulary + 1), dtype=torch.bool)
    taken.scatter_(1, ids.masked_fill(ids < 0, vocabulary), True)  # what fills up lands behind the vocabulary
    rest = logits.masked_fill(taken[:, :vocabulary], ABSENT).logsumexp(-1, keepdim=True)
    named = logits.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, ABSENT)
    return torch.cat([named, rest], -1) - logits.logsumexp(-1, keepdim=True)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def _log_p_q(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The log-probabilities of the teacher, then those of the student."""
    p, q = (_wide(z) / temperature for z in (teacher, student))
    return p.log_softmax(-1), q.log_softmax(-1)


def _log_mixture(log_a: Tensor, log_b: Tensor, beta: float) -> Tensor:
    """log(beta a + (1 - beta) b)."""
    return torch.logaddexp(log_a + math.log(beta), log_b + math.log1p(-beta))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _in_slices(of_slice: Callable[..., Tensor], logits: Tensor, *others: Tensor) -> Tensor:
    """of_slice(...) over slices of the first dimension; for the gradient each is computed again, not kept.

    split() and not indexing: its gradient is put together once, where each index would fill a whole (N, V).
    """
    rows = max(1, SLICE // logits.shape[-1])
    if len(logits) <= rows:
        return of_slice(logits, *others)
    slices = zip(*(x.split(rows) for x in (logits, *others)), strict=True)
    return torch.cat(
        [checkpoint(of_slice, *parts, use_reentrant=False, preserve_rng_state=False) for parts in slices]
    )
