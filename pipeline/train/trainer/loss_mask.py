"""Which tokens of an example have loss: those of the assistant's last message and its end of turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from pipeline.config.mix import ThinkingSwitch
from pipeline.inference.thinking import arguments
from pipeline.train.trainer.special_tokens import IGNORED, common_prefix, render_all


def tokens_of(
    examples: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    switch: ThinkingSwitch | None = None,
) -> list[dict[str, Any]]:
    """input_ids and labels (int32) of each dialogue, with loss from where it departs from its prompt.

    With a `switch` each example says in `thinking` how its prompt asks; its words are in the prompt already.
    Templates may render a prompt differently when no answer follows; the preflight compares the two.
    """
    rows: dict[int, dict[str, Any]] = {}
    for thinking in (True, False):
        numbers = [n for n, each in enumerate(examples) if each.get("thinking", True) == thinking]
        some = [examples[n] for n in numbers]
        variables = arguments(switch, thinking)
        rows |= dict(zip(numbers, _tokens_of(some, tokenizer, variables) if some else [], strict=True))
    return [rows[n] for n in range(len(examples))]


def loss_tokens(row: Mapping[str, Any]) -> np.ndarray:
    """The ids (n,) of a row's tokens with loss, without its first token, which nothing predicts."""
    ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
    return ids[1:][labels[1:] != IGNORED]


def _tokens_of(
    examples: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, variables: Mapping[str, Any]
) -> list[dict[str, Any]]:
    prompts = [example["prompt"] for example in examples]
    opened = render_all(tokenizer, prompts, opened=True, variables=variables)
    dialogues = render_all(
        tokenizer, [[*e["prompt"], *e["completion"]] for e in examples], variables=variables
    )
    rows = []
    for prompt, dialogue in zip(opened, dialogues, strict=True):
        ids = np.array(dialogue, dtype=np.int32)
        labels = ids.copy()
        labels[: common_prefix(prompt, ids)] = IGNORED
        rows.append({"input_ids": ids, "labels": labels})
    return rows
