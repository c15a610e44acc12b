"""objective = "redi": raises the likelihood of kept traces and lowers that of rejected ones.

REDI (Xu et al. 2025, arXiv 2505.24850): for a problem x with a kept trace y_w and a rejected trace y_l

    L = - log p(y_w | x) / |y_w| + alpha log p(y_l | x) / |y_l|,

averaged over the pairs of a step. There is no reference model. With alpha = 1 both weigh the same, and the
authors saw trainings collapse; with 0 it is cross-entropy with equal weight for each trace. They trained for
one epoch at a peak learning rate of 1e-6 with alpha = 0.8, after fine-tuning on kept traces.

A pair is trained as two rows, whose tokens have the weights 1 / |y_w| and - alpha / |y_l|. So packing and
micro batches change nothing. Validation measures the cross-entropy on kept traces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline.train.trainer.data import REJECTED
from pipeline.train.trainer.padding import has_loss
from pipeline.train.trainer.special_tokens import IGNORED
from pipeline.train.trainer.trainer import CrossEntropy, Rows, Setup, StudentTrainer, student_trainer

COLUMNS = ("input_ids", "labels")


def build(setup: Setup) -> StudentTrainer:
    splits = dict(setup.splits)
    if "validation" in splits:
        splits["validation"] = splits["validation"].select_columns([*COLUMNS])
    trainer = partial(RediTrainer, alpha=setup.job.train.redi.alpha)
    return student_trainer(replace(setup, splits=splits), OfPairs(), trainer)


class OfPairs(CrossEntropy):
    """Cross-entropy; the columns of the rejected traces stay in the data set for the collator."""

    columns = tuple(f"{REJECTED}{name}" for name in COLUMNS)


class RediTrainer(StudentTrainer):
    """Divides the weighted sum of a step by its pairs, over all micro batches and devices."""

    def __init__(self, *, alpha: float, **settings: Any) -> None:
        super().__init__(**settings)
        inner: Any = self.data_collator
        self.data_collator = PairCollator(inner, alpha)

    @property
    def _fused(self) -> bool:
        return False  # TRL's own loss knows no weights

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        """The pairs of the step; for validation the tokens with loss, as transformers counts them."""
        pairs = sum(int(batch["extra"].get("pairs", 0)) for batch in batch_samples)
        if not pairs:
            return super()._get_num_items_in_batch(batch_samples, device)
        count = torch.tensor(pairs, device=device)
        gathered: Tensor = self.accelerator.gather(count)
        return gathered.sum()


class PairCollator:
    """Turns pairs into the rows of the kept traces, then those of the rejected ones, with their weights."""

    def __init__(self, inner: Callable[[Rows], dict[str, Any]], alpha: float) -> None:
        self._inner, self._alpha = inner, alpha

    def __call__(self, rows: Rows) -> dict[str, Any]:
        pairs = [row for row in rows if f"{REJECTED}labels" in row and has_loss(row)]
        if not pairs:  # of validation, or blank
            return self._inner(rows)
        flat = [_answer(row, "", 1.0) for row in pairs]
        flat += [_answer(row, REJECTED, -self._alpha) for row in pairs]
        batch = self._inner(flat)
        return batch | {"extra": batch["extra"] | {"pairs": len(pairs)}}


def _answer(row: Mapping[str, Any], prefix: str, factor: float) -> dict[str, Any]:
    """One trace of a pair as a row; its weight makes the sum over its tokens a mean."""
    labels = row[f"{prefix}labels"]
    tokens = sum(label != IGNORED for label in labels[1:])
    return {"input_ids": row[f"{prefix}input_ids"], "labels": labels, "weight": factor / max(1, tokens)}
