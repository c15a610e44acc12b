"""TRL's SFTTrainer with a loss of ours: only supervised tokens meet the vocabulary, whatever the objective.

An objective gives a loss for each supervised token from the student's logits there. It is summed with the
examples' weights and divided by the supervised tokens of the whole step, over all micro batches and devices,
so a step is the same however it is laid out in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from trl import SFTTrainer

from pipeline.train.trainer import objectives
from pipeline.train.trainer.padding import Filled, teaches, with_blank, without_blanks
from pipeline.train.trainer.tokens import IGNORED

Rows = Sequence[Mapping[str, Any]]


class Supervised(NamedTuple):
    """The N supervised tokens of a batch, and what the student and the teachers were given."""

    logits: Tensor  # (N, V), the student's, each predicting one of the targets
    targets: Tensor  # (N,)
    mask: Tensor  # (B, C), which of the kept positions are supervised
    positions: Tensor  # (C,), the columns of the batch that were kept, as the model's `logits_to_keep`
    inputs: dict[str, Any]  # of the student's forward pass
    extra: dict[str, Any]  # what Objective.collate() gave


class Objective:
    """What the student is trained to do, as a loss for each supervised token."""

    columns: tuple[str, ...] = ()  # of the data set that it needs beside input_ids and labels

    def collate(self, rows: Rows, batch: dict[str, Any]) -> dict[str, Any]:
        """Its own tensors for the batch that TRL's collator made of these rows.

        batch["input_ids"] is (B, L); packed it is (1, sum of lengths), the rows end to end.
        """
        return {}

    def __call__(self, given: Supervised) -> Tensor:
        """The loss of each supervised token, (N,), in nats."""
        raise NotImplementedError


class Text(Objective):
    """Cross-entropy on the teacher's text: sequence-level distillation (Kim and Rush 2016)."""

    def __call__(self, given: Supervised) -> Tensor:
        return objectives.cross_entropy(given.logits, given.targets)


class Collator:
    """TRL's collator, with each supervised token's weight and the objective's own tensors under "extra"."""

    def __init__(self, inner: Callable[[Rows], dict[str, Any]], objective: Objective) -> None:
        self._inner, self._objective = inner, objective

    def __call__(self, rows: Rows) -> dict[str, Any]:
        rows = without_blanks(rows)
        batch = self._inner([{name: row[name] for name in ("input_ids", "labels")} for row in rows])
        # Rows for validation have none of the objective's columns, and are not measured by it; in those that
        # fill a batch there is nothing.
        known = teaches(rows[0]) and all(name in rows[0] for name in self._objective.columns)
        extra = self._objective.collate(rows, batch) if known else {}
        if "weight" in rows[0]:
            extra["weight"] = _by_token(rows, batch["input_ids"].shape)
        return batch | {"extra": extra}


def _by_token(rows: Rows, shape: torch.Size) -> Tensor:
    """The examples' weights, (B, L) or packed (1, sum of lengths), a token each."""
    if shape[0] == len(rows):
        return torch.tensor([[row["weight"]] for row in rows]).expand(shape)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    return torch.repeat_interleave(torch.tensor([row["weight"] for row in rows]), lengths)[None]


class StudentTrainer(SFTTrainer):
    """Trains for an objective; validation measures the cross-entropy on the teacher's text always."""

    objective: Objective
    text: Objective

    def __init__(self, *, objective: Objective, text: Objective, **settings: Any) -> None:
        super().__init__(**settings)
        self.objective, self.text = objective, text
        self._weighed = "weight" in settings["train_dataset"].column_names
        self._validated = torch.zeros(2, dtype=torch.float64)  # the loss of all tokens, and how many they are
        padding = settings["processing_class"].pad_token_id
        self.train_dataset = with_blank(settings["train_dataset"], padding)
        if settings.get("eval_dataset") is not None:
            self.eval_dataset = with_blank(settings["eval_dataset"], padding)
        inner: Any = self.data_collator
        self.data_collator = Collator(inner, objective)

    @property
    def _fused(self) -> bool:
        """Whether TRL's own loss will do: cross-entropy in tiles, never all logits; it wants a GPU."""
        return self.objective is self.text and self.args.device.type != "cpu" and not self._weighed

    def _get_train_sampler(self, train_dataset: Any = None) -> Filled:
        shuffled = self.args.train_sampling_strategy == "random"
        size = self._at_once(self.args.train_batch_size)
        rows: Any = self.train_dataset
        return Filled(len(rows) - 1, size, self.args.seed if shuffled else None)

    def _get_eval_sampler(self, eval_dataset: Any) -> Filled:
        return Filled(len(eval_dataset) - 1, self._at_once(self.args.eval_batch_size), None)

    def _at_once(self, batch_size: int) -> int:
        """What the last batch is filled to, so that each process has as many batches; one needs none."""
        processes = self.args.world_size
        return batch_size * processes if processes > 1 else 1

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        if (inputs["labels"] == IGNORED).all():  # a batch of filling
            inputs = {**inputs, "attention_mask": torch.zeros_like(inputs["input_ids"])}
        super()._track_num_input_tokens(inputs)

    def evaluation_loop(self, *args: Any, **settings: Any) -> Any:
        """The loss a supervised token, over all of them; TRL's is a mean of the micro batches' means."""
        self._validated.zero_()
        output: Any = super().evaluation_loop(*args, **settings)
        gathered = self.accelerator.gather(self._validated[None].to(self.args.device))
        total, tokens = gathered.sum(0).tolist()
        output.metrics[f"{settings.get('metric_key_prefix', 'eval')}_loss"] = total / max(1, tokens)
        return output

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        ours = ("weight", *self.objective.columns)
        self._signature_columns: Any = [*dict.fromkeys((*(self._signature_columns or ()), *ours))]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        tokens = (inputs["labels"][:, 1:] != IGNORED).sum()
        loss = self._loss(model, inputs, return_outputs, num_items_in_batch)
        if not model.training:
            mean = loss[0] if return_outputs else loss
            self._validated += torch.stack([mean.detach().double() * tokens, tokens.double()]).cpu()
        return loss

    def _loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool, num_items_in_batch: Any) -> Any:
        extra = inputs.pop("extra")
        if self._fused:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        following = labels[:, 1:]
        positions = (following != IGNORED).any(0).nonzero().squeeze(1)
        targets = following[:, positions]
        mask = targets != IGNORED
        outputs = model(**inputs, use_cache=False, logits_to_keep=positions)
        training = model.training
        objective = self.objective if training else self.text
        logits = outputs.logits.flatten(0, 1) if bool(mask.all()) else outputs.logits[mask]
        losses = logits.sum(-1)  # of no token, where all is filling
        if len(logits):
            losses = objective(Supervised(logits, targets[mask], mask, positions, inputs, extra))
        if "weight" in extra and training:
            losses = losses * extra["weight"][:, 1:][:, positions][mask]
        loss = self._reduced(losses.sum(), mask, num_items_in_batch)
        if self.aux_loss_enabled:  # of a mixture of experts: a mean over the micro batch
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
        return (loss, outputs) if return_outputs else loss

    def _reduced(self, total: Tensor, mask: Tensor, items: Any) -> Tensor:
        """Over the supervised tokens of the step on all devices, whose gradients are then averaged."""
        if items is None:
            return total / mask.sum().clamp(min=1)
        return (
            total / items * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
        )
