"""Which tokens of an example have loss: those of the assistant's last message and its end of turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from pipeline.train.trainer.tokens import IGNORED, common_prefix, render_all


def tokens_of(
    examples: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Any]]:
    """input_ids and labels (int32) of each dialogue, with loss from where it departs from its prompt.

    Templates may render a prompt differently when no answer follows; the preflight compares the two.
    """
    prompts = render_all(tokenizer, [example["prompt"] for example in examples], opened=True)
    dialogues = render_all(tokenizer, [[*e["prompt"], *e["completion"]] for e in examples])
    rows = []
    for prompt, dialogue in zip(prompts, dialogues, strict=True):
        ids = np.array(dialogue, dtype=np.int32)
        labels = ids.copy()
        labels[: common_prefix(prompt, ids)] = IGNORED
        rows.append({"input_ids": ids, "labels": labels})
    return rows
