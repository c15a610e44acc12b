"""TRL's SFTTrainer with exchangeable losses, computed only at tokens that have loss.

An objective maps the student's last hidden states at those tokens to a loss for each of them; white-box
terms are added to it. The losses are summed with the examples' weights and divided by the tokens with loss in
the whole step, over all micro batches and devices, so that a step does not depend on how it is laid out in
memory. Everything is computed inside the student's forward pass, where sharded weights are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import SFTConfig, SFTTrainer

from pipeline.errors import user_error
from pipeline.train import objectives
from pipeline.train.job import TrainJob
from pipeline.train.trainer import heads, load, loss_terms, losses, teachers
from pipeline.train.trainer.data import Splits
from pipeline.train.trainer.documents import documents
from pipeline.train.trainer.heads import Head
from pipeline.train.trainer.loss_terms import Batch, Term, captures
from pipeline.train.trainer.padding import has_loss, with_blank_rows, without_blank_rows
from pipeline.train.trainer.special_tokens import IGNORED
from pipeline.train.trainer.teachers import Teacher
from pipeline.train.trainer.tiles import tiled

Rows = Sequence[Mapping[str, Any]]


class TeacherTokens(NamedTuple):
    """A teacher's view of the same N tokens."""

    hidden: Tensor  # (N, h_t), its last hidden states
    head: Head


class SupervisedTokens(NamedTuple):
    """The N tokens of a batch that have loss, as the objective sees them; tiles.py makes logits of them."""

    hidden: Tensor  # (N, h), the student's last hidden states; each predicts one of the targets
    head: Head  # the student's output layer
    targets: Tensor  # (N,)
    teachers: Sequence[TeacherTokens]
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
        return tiled(losses.cross_entropy, tokens.hidden, tokens.head, tokens.targets)


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


def student_trainer(
    setup: Setup, objective: Objective, trainer: Callable[..., StudentTrainer] | None = None
) -> StudentTrainer:
    """The trainer of an objective on the examples, with the recipe's teachers and white-box terms.

    trainer: its class. Raises UserError for settings that TRL rejects, and as teachers.load() and
    loss_terms.build() do.
    """
    train = setup.job.train
    dtype = torch.bfloat16 if setup.job.bf16 else torch.float32
    beside = [
        Teacher(teachers.load(teacher.model, setup.model, setup.tokenizer, dtype))
        for teacher in setup.job.teachers
    ]
    added = []
    if objectives.terms(train):
        added = loss_terms.build(train, setup.model, beside[0].model, setup.job.seed)
    with user_error("train", ValueError):
        return (trainer or StudentTrainer)(
            objective=objective,
            teachers=beside,
            terms=added,
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

    def __init__(
        self,
        *,
        objective: Objective,
        teachers: Sequence[Teacher] = (),
        terms: Sequence[Term] = (),
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.objective, self._cross_entropy = objective, CrossEntropy()
        self.teachers, self.terms = list(teachers), list(terms)
        student: Any = self.model
        student = student.get_base_model() if hasattr(student, "get_base_model") else student
        _check_heads(student, self.teachers)
        heads.add_forward_to_hidden(student)
        beside = self.teachers[0].model if self.terms else student
        self._captures = captures(self.terms, student, beside)
        if self.terms:
            self.teachers[0].capture = self._captures[1]
        for teacher in self.teachers:
            teacher.place(self.accelerator)
        self._values: dict[str, Tensor] = {}  # of each term in this step, without its weight
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
        plain = isinstance(self.objective, CrossEntropy) and not self._weighted and not self.terms
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
        labels = inputs.pop("labels")
        rows = F.pad(labels[:, 1:] != IGNORED, (0, 1))  # which positions predict a token with loss
        targets = labels[:, 1:][rows[:, :-1]]
        objective, on = (self.objective, self.terms) if model.training else (self._cross_entropy, [])
        # Also for blank rows: all processes have to take part where a teacher is sharded.
        beside = self.teachers if model.training else []
        views = [TeacherTokens(teacher.hidden(inputs, rows), teacher.head) for teacher in beside]

        def at_hidden(hidden: Tensor, head: Head) -> dict[str, Tensor]:
            tokens = SupervisedTokens(hidden[rows], head, targets, views, extra)
            # Without tokens, zeros that are part of the graph of every weight.
            made = objective(tokens) if len(targets) else tiled(_nothing, tokens.hidden, head)
            batch = Batch(rows, documents(inputs) if on else [], *self._captures)
            return {"objective": made, **{term.name: term.value(batch) for term in on}}

        with self._captures[0].recording() if on else nullcontext():
            values = model(**inputs, use_cache=False, at_hidden=at_hidden)
        for capture in self._captures:
            capture.clear()
        weights = extra["weight"][rows] if "weight" in extra and model.training else None
        loss = self._mean(values["objective"], weights, rows, num_items_in_batch)
        for term in on:
            value = self._mean(values[term.name], weights, rows, num_items_in_batch)
            self._values[term.name] = self._values.get(term.name, torch.zeros_like(value)) + value.detach()
            loss = loss + term.settings.weight * value
        if self.aux_loss_enabled:  # of a mixture of experts: a mean over the micro batch
            loss = loss + self.router_aux_loss_coef * values["aux_loss"] / self._steps(num_items_in_batch)
        return (loss, values) if return_outputs else loss

    def _steps(self, items: Any) -> int:
        """The micro batches of a step, over which a value of each one is averaged."""
        return self.current_gradient_accumulation_steps if items is not None else 1

    def _mean(self, value: Tensor, weights: Tensor | None, rows: Tensor, items: Any) -> Tensor:
        """The part of the step's mean that this micro batch has: of a value per token, or of one in all."""
        if value.dim() == 0:
            return value / self._steps(items)
        return self._reduced((value if weights is None else value * weights).sum(), rows, items)

    def log(self, logs: dict[str, float], *args: Any, **settings: Any) -> None:
        """Adds each term's value in this step, without its weight, over all devices."""
        if "loss" in logs and self._values:
            names = sorted(self._values)
            means: Any = self.accelerator.reduce(
                torch.stack([self._values[n].float() for n in names]), "mean"
            )
            logs |= {f"loss_{name}": value for name, value in zip(names, means.tolist(), strict=True)}
            self._values.clear()
        super().log(logs, *args, **settings)

    def _reduced(self, total: Tensor, mask: Tensor, items: Any) -> Tensor:
        """The sum over the step's tokens on all devices; times the devices, whose gradients are averaged."""
        if items is None:
            return total / mask.sum().clamp(min=1)
        return (
            total / items * (self.accelerator.num_processes if self.args.average_tokens_across_devices else 1)
        )


def _nothing(logits: Tensor) -> Tensor:
    return logits.sum(-1)


def _check_heads(student: PreTrainedModel, beside: Sequence[Teacher]) -> None:
    """Raises UserError for a model whose logits tiles.py cannot make; measured where weights are whole."""
    if PartialState().is_main_process:
        for name, model in (("student", student), *(("teacher", teacher.model) for teacher in beside)):
            if not any(p.is_meta or hasattr(p, "ds_id") for p in model.parameters()):
                heads.check(name, model)
