"""objective = "dpo": prefers the kept trace of a pair to the rejected one, with TRL's DPOTrainer.

DPO (Rafailov et al. 2023, arXiv 2305.18290): for a prompt x, a kept trace y_w and a rejected trace y_l

    L = - log sigmoid(beta (log p(y_w | x) / p_ref(y_w | x) - log p(y_l | x) / p_ref(y_l | x))),

where p_ref is the student before this training. Its log-probabilities are computed once, before the first
step, so no second model stays in memory. "ipo" is the loss of Azar et al. 2023 (arXiv 2310.12036),
"sigmoid_norm" divides each log-ratio by its length. `sft_weight` adds the cross-entropy on the kept trace.

Tokens and masks are those of the preflight: TRL renders nothing. Its loss is a mean over the pairs of each
micro batch. Validation measures the same loss on the pairs held back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
from trl import DPOConfig, DPOTrainer

from pipeline.errors import UserError, user_error
from pipeline.train.trainer import load
from pipeline.train.trainer.data import REJECTED
from pipeline.train.trainer.special_tokens import IGNORED
from pipeline.train.trainer.trainer import Setup


def build(setup: Setup) -> DPOTrainer:
    """The trainer on pairs. Raises UserError for settings that TRL rejects."""
    settings = setup.job.train.dpo
    losses = {settings.loss: 1.0} | ({"sft": settings.sft_weight} if settings.sft_weight else {})
    setup.tokenizer.eos_token = setup.tokenizer.convert_ids_to_tokens(setup.end)
    splits = {name: as_pairs(rows) for name, rows in setup.splits.items()}
    with user_error("train", ValueError):
        return PairTrainer(
            model=setup.model,
            args=DPOConfig(
                **setup.arguments,
                beta=settings.beta,
                loss_type=list(losses),
                loss_weights=list(losses.values()),
                max_length=None,  # TRL would truncate; the preflight stops instead
                precompute_ref_log_probs=True,
            ),
            train_dataset=splits["train"],
            eval_dataset=splits.get("validation"),
            processing_class=setup.tokenizer,
            peft_config=load.adapters(setup.job.train),
            callbacks=list(setup.callbacks),
        )


class PairTrainer(DPOTrainer):
    """Takes pairs that are tokenized already."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset


def as_pairs(rows: datasets.Dataset) -> datasets.Dataset:
    """The rows as TRL's collator takes them: prompt_ids, chosen_ids, rejected_ids."""
    return rows.map(_pair, remove_columns=rows.column_names)


def _pair(row: Mapping[str, Any]) -> dict[str, list[int]]:
    prompt, chosen = _split(row["input_ids"], row["labels"])
    same, rejected = _split(row[f"{REJECTED}input_ids"], row[f"{REJECTED}labels"])
    if prompt != same:
        raise UserError(
            f"example {row['id']}: the student's chat template renders its prompt differently before the "
            "rejected trace"
        )
    return {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}


def _split(ids: list[int], labels: list[int]) -> tuple[list[int], list[int]]:
    """Prompt and answer: from the first token with loss on, each has loss, as the preflight checked."""
    start = next(n for n, label in enumerate(labels) if label != IGNORED)
    return ids[:start], ids[start:]
