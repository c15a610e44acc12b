"""TRL's SFTTrainer with exchangeable losses, computed only at tokens that have loss.

An objective maps the student's logits at those tokens to a loss for each of them. The losses are summed with
the examples' weights and divided by the tokens with loss in the whole step, over all micro batches and
devices, so that a step does not depend on how it is laid out in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig, SFTTrainer

from pipeline.errors import user_error
from pipeline.train.job import TrainJob
from pipeline.train.trainer import load, losses
from pipeline.train.trainer.data import Splits
from pipeline.train.trainer.padding import has_loss, with_blank_rows, without_blank_rows
from pipeline.train.trainer.tokens import IGNORED

Rows = Sequence[Mapping[str, Any]]


class SupervisedTokens(NamedTuple):
    """The N tokens of a batch that have loss, and the inputs of the student's forward pass."""

    logits: Tensor  # (N, V), the student's; each row predicts one of the targets
    targets: Tensor  # (N,)
    mask: Tensor  # (B, C), which of the kept positions predict a token with loss
    positions: Tensor  # (C,), the columns of the batch that were kept, as the model's `logits_to_keep`
    inputs: dict[str, Any]  # of the student's forward pass
    extra: dict[str, Any]  # what Objective.collate() returned


class Objective:
    """A loss for each token that has one."""

    columns: tuple[str, ...] = ()  # of the data set that collate() needs, with input_ids and labels

    def collate(self, rows: Rows, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns the objective's own tensors for the batch that TRL's collator made of these rows.

        batch["input_ids"] is (B, L); packed it is (1, sum of lengths), the rows end to end.
        """
        return {}

    def __call__(self, tokens: SupervisedTokens) -> Tensor:
        """The loss of each token, (N,), in nats."""
        raise NotImplementedError


class CrossEntropy(Objective):
    """Cross-entropy on the teacher's text: sequence-level distillation (Kim and Rush 2016)."""

    def __call__(self, tokens: SupervisedTokens) -> Tensor:
        return losses.cross_entropy(tokens.logits, tokens.targets)


@dataclass(frozen=True)
class Setup:
    """What a trainer is built from, whatever its objective."""

    job: TrainJob
    splits: Splits
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    end: int  # id of the token that ends a turn
    arguments: dict[str, Any]  # fields of TrainingArguments
    callbacks: Sequence[TrainerCallback] = ()


def student_trainer(setup: Setup, objective: Objective) -> StudentTrainer:
    """The trainer of an objective on the examples. Raises UserError for settings that TRL rejects."""
    with user_error("train", ValueError):
        return StudentTrainer(
            objective=objective,
            model=setup.model,
            args=SFTConfig(
                **setup.arguments,
                max_length=None,  # TRL would truncate; the preflight stops instead
                padding_free=setup.job.train.packing,
                eos_token=str(setup.tokenizer.convert_ids_to_tokens(setup.end)),
            ),
            train_dataset=setup.splits["train"],
            eval_dataset=setup.splits.get("validation"),
            processing_class=setup.tokenizer,
            peft_config=load.adapters(setup.job.train),
            callbacks=list(setup.callbacks),
        )


class Collator:
    """TRL's collator, plus each token's weight and the objective's own tensors under "extra"."""

    def __init__(self, inner: Callable[[Rows], dict[str, Any]], objective: Objective) -> None:
        self._inner, self._objective = inner, objective

    def __call__(self, rows: Rows) -> dict[str, Any]:
        rows = without_blank_rows(rows)
        batch = self._inner([{name: row[name] for name in ("input_ids", "labels")} for row in rows])
        # Validation rows lack the objective's columns and are not measured by it; blank rows hold nothing.
        usable = has_loss(rows[0]) and all(name in rows[0] for name in self._objective.columns)
        extra = self._objective.collate(rows, batch) if usable else {}
        if "weight" in rows[0]:
            extra["weight"] = _token_weights(rows, batch["input_ids"].shape)
        return batch | {"extra": extra}


def _token_weights(rows: Rows, shape: torch.Size) -> Tensor:
    """The examples' weights repeated for each token: (B, L), packed (1, sum of lengths)."""
    if shape[0] == len(rows):
        return torch.tensor([[row["weight"]] for row in rows]).expand(shape)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    return torch.repeat_interleave(torch.tensor([row["weight"] for row in rows]), lengths)[None]


class StudentTrainer(SFTTrainer):
    """Trains for an objective; validation always measures the cross-entropy on the teacher's text."""

    objective: Objective

    def __init__(self, *, objective: Objective, **settings: Any) -> None:
        super().__init__(**settings)
        self.objective, self._cross_entropy = objective, CrossEntropy()
        self._weighted = "weight" in settings["train_dataset"].column_names
        self._validation = torch.zeros(2, dtype=torch.float64)  # summed loss and number of tokens
        padding = settings["processing_class"].pad_token_id
        step = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        self.train_dataset = with_blank_rows(settings["train_dataset"], padding, step)
        if settings.get("eval_dataset") is not None:
            self.eval_dataset = with_blank_rows(settings["eval_dataset"], padding, step)
        inner: Any = self.data_collator
        self.data_collator = Collator(inner, objective)

    @property
    def _fused(self) -> bool:
        """Whether TRL's own loss serves: cross-entropy in tiles, without all logits; it needs a GPU."""
        plain = isinstance(self.objective, CrossEntropy) and not self._weighted
        return plain and self.args.device.type != "cpu"

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        if (inputs["labels"] == IGNORED).all():  # blank rows only
            inputs = {**inputs, "attention_mask": torch.zeros_like(inputs["input_ids"])}
        super()._track_num_input_tokens(inputs)

    def evaluation_loop(self, *args: Any, **settings: Any) -> Any:
        """Reports the mean loss over all tokens; TRL's is a mean of the micro batches' means."""
        self._validation.zero_()
        output: Any = super().evaluation_loop(*args, **settings)
        gathered = self.accelerator.gather(self._validation[None].to(self.args.device))
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
            self._validation += torch.stack([mean.detach().double() * tokens, tokens.double()]).cpu()
        return loss

    def _loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool, num_items_in_batch: Any) -> Any:
        extra = inputs.pop("extra")
        if self._fused:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        next_labels = inputs.pop("labels")[:, 1:]
        positions = (next_labels != IGNORED).any(0).nonzero().squeeze(1)
        targets = next_labels[:, positions]
        mask = targets != IGNORED
        outputs = model(**inputs, use_cache=False, logits_to_keep=positions)
        objective = self.objective if model.training else self._cross_entropy
        logits = outputs.logits.flatten(0, 1) if bool(mask.all()) else outputs.logits[mask]
        token_losses = logits.sum(-1)  # empty, but part of the graph, when all rows are blank
        if len(logits):
            token_losses = objective(SupervisedTokens(logits, targets[mask], mask, positions, inputs, extra))
        if "weight" in extra and model.training:
            token_losses = token_losses * extra["weight"][:, 1:][:, positions][mask]
        loss = self._reduced(token_losses.sum(), mask, num_items_in_batch)
        if self.aux_loss_enabled:  # of a mixture of experts: a mean over the micro batch
            steps = self.current_gradient_accumulation_steps if num_items_in_batch is not None else 1
            loss = loss + self.router_aux_loss_coef * outputs.aux_loss / steps
        return (loss, outputs) if return_outputs else loss

    def _reduced(self, total: Tensor, mask: Tensor, items: Any) -> Tensor:
        """The sum over the step's tokens on all devices; times the devices, whose gradients are averaged."""
        if items is None:
            return total / mask.sum().clamp(min=1)
        return (
            total / items * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
        )
