"""Finds a model's decoder layers, and pairs those of a student with those of its teacher."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from pipeline.errors import UserError

Pairs = Sequence[tuple[int, int]]  # a layer of the student and one of the teacher, counted from 1


def layer_stack(model: torch.nn.Module, length: int) -> torch.nn.ModuleList | None:
    """The list of layers: the outermost of this length, as a layer may hold lists of its own."""
    lists = (m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == length)
    return next(lists, None)


def layers_of(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The decoder layers. Raises UserError where the model keeps none in a list."""
    stack = layer_stack(model, depth(model))
    if stack is None:
        raise UserError(f"{type(model).__name__} has no list of layers: white-box terms need one")
    return stack


def depth(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config(decoder=True).num_hidden_layers)


def width(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config(decoder=True).hidden_size)


def paired(table: str, pairs: Pairs, student: int, teacher: int, default: str) -> Pairs:
    """The pairs of layers of a table; without any, the last layers, or all of the student's, evenly mapped.

    Evenly: layer s of S maps to s T / S, rounded, of T (PKD, Sun et al. 2019, arXiv 1908.09355, "skip").
    Raises UserError for a layer that one of them lacks.
    """
    if not pairs:
        chosen = range(1, student + 1) if default == "all" else [student]
        return [(s, max(1, round(s * teacher / student))) for s in chosen]
    for ours, theirs in pairs:
        if ours > student or theirs > teacher:
            raise UserError(
                f"train.{table}.layers: [{ours}, {theirs}] is not there: the student has {student} layers, "
                f"the teacher {teacher}"
            )
    return pairs
