"""A teacher behind a URL for on_policy: it reads the student's answers, by vLLM's `prompt_logprobs`.

At each token x of an answer it gives log p(x), and for the forward KL its k likeliest tokens, at temperature
1. With the student's q,
- beta = 1 is the reverse KL, estimated at the sampled token alone: log q(x) - log p(x) has KL(q || p) as its
  mean, and (log q(x) - log p(x)) grad log q(x) has its gradient (Thinking Machines Lab 2025, "On-Policy
  Distillation");
- beta = 0 is the forward KL over the k likeliest tokens and one bucket for all others (losses.topk_kl).
A reverse KL over the k likeliest alone is left out: it collapses (ms-swift, issue 9526).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config.endpoints import Endpoint
from pipeline.config.train import OnPolicy
from pipeline.errors import Stopped
from pipeline.generate.usage import UsageLog, UsageMeter
from pipeline.inference import endpoint
from pipeline.inference.batch_runner import RequestTotals
from pipeline.inference.http_errors import RequestFailed
from pipeline.inference.prompt_logprobs import check_texts
from pipeline.inference.response import PromptLogprobs
from pipeline.train.trainer import losses

CONCURRENCY = 64  # requests in flight of each training process
LOWEST = -50.0  # log-probability; a teacher that rules a token out must not decide a whole step


class RemoteTeacher:
    """Reads answers over HTTP, and has the loss of what it gives.

    What it is paid for is in a usage file in `folder`, as that of every model that a stage asks.
    """

    def __init__(self, teacher: Endpoint, settings: OnPolicy, folder: Path) -> None:
        self._totals = RequestTotals()
        self._meter = UsageMeter(teacher.model, teacher, self._totals)
        self._usage = UsageLog(folder, [self._meter])
        self._teacher, self._reverse = teacher, settings.beta == 1
        self._k = 0 if self._reverse else settings.top_k
        self.columns = ("logprobs",) if self._reverse else ("top_tokens", "top_logprobs")

    def read(self, batch: dict[str, Any], tokenizer: Any) -> dict[str, Tensor]:
        """The columns for the answers of a batch (B, C): (B, C) or (B, C, k), padded with zeros.

        Raises UserError for a server that cannot give them or has another tokenizer, Stopped where a request
        failed.
        """
        names = ("prompt", "completion")
        prompts, answers = (_rows(batch[f"{name}_ids"], batch[f"{name}_mask"]) for name in names)
        try:
            found = asyncio.run(self._read(prompts, answers))
        except RequestFailed as e:
            raise Stopped(f"the teacher {self._teacher.model} did not read an answer: {e}") from None
        texts = [tokenizer.decode([token]) for token in answers[0]]
        check_texts("on_policy", answers[0], texts, found[0].texts)
        sampled = batch["completion_ids"]
        shape = (*sampled.shape, self._k) if self._k else sampled.shape
        return {
            name: _padded([getattr(each, name) for each in found], shape).to(sampled.device)
            for name in self.columns
        }

    async def _read(self, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> list[PromptLogprobs]:
        async with endpoint.client_for(self._teacher, CONCURRENCY) as client:

            async def read(prompt: list[int], answer: list[int]) -> PromptLogprobs | None:
                completion = await client.read([*prompt, *answer], len(answer), self._k)
                self._meter.add(completion)
                return completion.prompt_logprobs

            try:
                found = await asyncio.gather(*map(read, prompts, answers))
            finally:
                self._totals.requests += client.pool.requests
                self._totals.retries += client.pool.retries
                self._usage.save(self._usage.note())
        return [each for each in found if each]

    def loss(self, logits: Tensor, targets: Tensor, *columns: Tensor) -> Tensor:
        """The loss of each token (n,) from logits (n, V), in nats. That of beta = 1 may be negative."""
        if not self._reverse:
            ids, logprobs = columns
            return losses.topk_kl(logits, ids.long(), logprobs)
        (log_p,) = columns
        log_q = -losses.cross_entropy(logits, targets)
        gap = log_q - log_p.clamp(min=LOWEST)
        with_gradient = gap.detach() * log_q
        return with_gradient + (gap - with_gradient).detach()


def _rows(ids: Tensor, mask: Tensor) -> list[list[int]]:
    return [row[kept].tolist() for row, kept in zip(ids, mask.bool(), strict=True)]


def _padded(rows: Sequence[Sequence[float]], shape: Sequence[int]) -> Tensor:
    """(B, C) or (B, C, k) from the flat values of each row; ids below 2^24 are exact."""
    whole = torch.zeros(*shape)
    for to, values in zip(whole, rows, strict=True):
        to.view(-1)[: len(values)] = torch.tensor(values)
    return whole
