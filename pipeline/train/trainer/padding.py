"""Fills the last step of an epoch with blank rows, so that no example is repeated.

Every process needs the same number of batches. accelerate would repeat examples from the start of the epoch;
a blank row has no loss. The rows are the same for any number of processes, and so is their order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import datasets

from pipeline.train.trainer.special_tokens import IGNORED


def with_blank_rows(rows: datasets.Dataset, padding: int, multiple: int) -> datasets.Dataset:
    """The rows, then rows that hold only padding tokens, up to a multiple of `multiple` rows."""

    def blank(row: Mapping[str, Any]) -> dict[str, Any]:
        lists: dict[str, Any] = {name: [] for name, value in row.items() if isinstance(value, list)}
        return lists | {"input_ids": [padding] * 2, "labels": [IGNORED] * 2}

    added = rows.select([0] * (-len(rows) % multiple))
    return datasets.concatenate_datasets(
        [rows, added.map(blank, features=rows.features, keep_in_memory=True)]
    )


def without_blank_rows(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The rows with loss; where there are none, one blank row, as a batch cannot be empty."""
    return [row for row in rows if has_loss(row)] or rows[:1]


def has_loss(row: Mapping[str, Any]) -> bool:
    return any(label != IGNORED for label in row["labels"])
