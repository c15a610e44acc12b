"""The white-box terms of a loss: what they need of student and teacher, and their values in a micro batch.

A term adds `weight` times its value to the objective. A value per token is averaged like the objective's,
over the tokens with loss of the whole step; one per micro batch is averaged over the step's micro batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import PartialState
from accelerate.utils import gather
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.config.train import AttentionTransfer, Features, Relations, Train
from pipeline.errors import UserError
from pipeline.train.trainer import attention_transfer, features, layers, relations
from pipeline.train.trainer.capture import Capture
from pipeline.train.trainer.documents import Document, numbered
from pipeline.train.trainer.layers import Pairs

PROJECTIONS = "feature_projections"  # attribute of the student while it trains


class Batch(NamedTuple):
    """A micro batch, and what was recorded of both models in it."""

    rows: Tensor  # (B, L), which positions predict a token with loss
    documents: list[Document]
    student: Capture
    teacher: Capture


@dataclass(frozen=True)
class FeatureTerm:
    settings: Features
    pairs: Pairs
    student: Any  # the model; its attribute PROJECTIONS has the maps, which FSDP replaces
    name: str = "features"
    per_token: bool = True

    def value(self, batch: Batch) -> Tensor:
        """The mean over the pairs of layers, at each token: (N,)."""
        maps = getattr(self.student, PROJECTIONS)
        parts = []
        for number, (ours, theirs) in enumerate(self.pairs):
            states = batch.student.hidden[ours][batch.rows], batch.teacher.hidden[theirs][batch.rows]
            weight = maps[number].weight if len(maps) else None
            parts.append(features.feature_loss(self.settings.loss, *states, weight))
        return torch.stack(parts).mean(0)


@dataclass(frozen=True)
class AttentionTerm:
    settings: AttentionTransfer
    pairs: Pairs
    name: str = "attention_transfer"
    per_token: bool = True

    def value(self, batch: Batch) -> Tensor:
        """The mean over the pairs of layers, at each token: (N,). Raises UserError for unusable layers."""
        for capture in (batch.student, batch.teacher):
            capture.check()
        parts = []
        for ours, theirs in self.pairs:
            sides = batch.student.attention[ours], batch.teacher.attention[theirs]
            widths = [attention_transfer.relation_width(side) for side in sides]
            most = sides[0].query.shape[1]
            heads = self.settings.relation_heads or attention_transfer.default_heads(widths, most)
            if self.settings.loss == "minilm" and any(width % heads for width in widths):
                raise UserError(
                    f"train.attention_transfer.relation_heads = {heads} does not divide the attention's "
                    f"width, {widths[0]} of the student and {widths[1]} of the teacher"
                )
            parts.append(
                attention_transfer.attention_loss(
                    self.settings.loss, *sides, batch.documents, batch.rows, heads
                )
            )
        return torch.stack(parts).mean(0)


@dataclass(frozen=True)
class RelationTerm:
    settings: Relations
    pairs: Pairs
    size: int  # examples of a full micro batch
    name: str = "relations"
    per_token: bool = False

    def value(self, batch: Batch) -> Tensor:
        """The mean over the pairs of layers, over the examples of all devices: ().

        Equal on all devices. Each has the gradient of its own examples, times the number of devices, because
        gradients are averaged over devices.
        """
        numbers = numbered(batch.documents, batch.rows.shape, batch.rows.device)[batch.rows]
        present = torch.bincount(numbers, minlength=len(batch.documents)) > 0
        parts = []
        for ours, theirs in self.pairs:
            states = batch.student.hidden[ours][batch.rows], batch.teacher.hidden[theirs][batch.rows]
            mine, wanted = (
                of_all_devices(relations.pooled(x, numbers, len(present))[present], self.size) for x in states
            )
            enough = len(mine) >= relations.LEAST[self.settings.loss]
            parts.append(relations.RELATIONS[self.settings.loss](mine, wanted) if enough else mine.sum() * 0)
        loss = torch.stack(parts).mean()
        return loss.detach() + PartialState().num_processes * (loss - loss.detach())


Term = FeatureTerm | AttentionTerm | RelationTerm


def of_all_devices(x: Tensor, size: int) -> Tensor:
    """The rows (n, h), n <= size, of all processes, in their order; only the own ones have gradients."""
    state = PartialState()
    if state.num_processes == 1:
        return x
    padded = torch.cat([x.detach(), x.new_zeros((size - len(x), x.shape[1]))])
    counts = gather(torch.tensor([len(x)], device=x.device)).tolist()
    rows = gather(padded).split(size)
    parts = [part[:count] for part, count in zip(rows, counts, strict=True)]
    parts[state.process_index] = x
    return torch.cat(parts)


def build(train: Train, student: Any, teacher: Any, seed: int) -> list[Term]:
    """The terms that the recipe turns on; adds trainable projections to the student where features need them.

    Raises UserError for layers that are not there.
    """
    depths = layers.depth(student), layers.depth(teacher)
    made: list[Term] = []
    if train.features:
        pairs = layers.paired("features", train.features.layers, *depths, default="all")
        widths = layers.width(student), layers.width(teacher)
        if train.lora and widths[0] != widths[1]:
            raise UserError(
                f"train.features: hidden states of {widths[0]} and {widths[1]} numbers need a projection, "
                "which adapters cannot hold: remove train.lora, or train.features"
            )
        setattr(student, PROJECTIONS, features.projections(len(pairs), *widths, seed))
        made.append(FeatureTerm(train.features, pairs, student))
    if train.attention_transfer:
        pairs = layers.paired("attention_transfer", train.attention_transfer.layers, *depths, default="last")
        made.append(AttentionTerm(train.attention_transfer, pairs))
    if train.relations:
        pairs = layers.paired("relations", train.relations.layers, *depths, default="last")
        made.append(RelationTerm(train.relations, pairs, train.micro_batch_size))
    return made


def captures(
    terms: list[Term], student: PreTrainedModel, teacher: PreTrainedModel
) -> tuple[Capture, Capture]:
    """The recorders of both models for what the terms need. Raises UserError as Capture does."""
    made = []
    for side, model in enumerate((student, teacher)):
        states = [pair[side] for term in terms if not isinstance(term, AttentionTerm) for pair in term.pairs]
        attention = [pair[side] for term in terms if isinstance(term, AttentionTerm) for pair in term.pairs]
        made.append(Capture(model, states, attention))
    return made[0], made[1]
