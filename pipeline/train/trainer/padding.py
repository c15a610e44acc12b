"""Pads the last batch of an epoch on several processes with blank rows, so that no example is repeated.

Every process needs the same number of batches. accelerate would repeat examples from the start of the epoch;
a blank row has no loss, so a step is the same on one process and on many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler

from pipeline.train.trainer.tokens import IGNORED


def with_blank_row(rows: datasets.Dataset, padding: int) -> datasets.Dataset:
    """The rows followed by one that holds only padding tokens."""

    def blank(row: Mapping[str, Any]) -> dict[str, Any]:
        lists: dict[str, Any] = {name: [] for name, value in row.items() if isinstance(value, list)}
        return lists | {"input_ids": [padding] * 2, "labels": [IGNORED] * 2}

    last = rows.select([0]).map(blank, features=rows.features, keep_in_memory=True)
    return datasets.concatenate_datasets([rows, last])


def without_blank_rows(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The rows with loss; where there are none, one blank row, as a batch cannot be empty."""
    return [row for row in rows if has_loss(row)] or rows[:1]


def has_loss(row: Mapping[str, Any]) -> bool:
    return any(label != IGNORED for label in row["labels"])


class PaddedSampler(Sampler[int]):
    """Yields rows 0 to n - 1 in the order of the epoch, then the blank row n up to a multiple of `size`."""

    def __init__(self, rows: int, size: int, seed: int | None) -> None:
        """`seed` None keeps the rows' own order."""
        self._rows, self._blanks = rows, -rows % size
        self._order: Any = range(rows)
        if seed is not None:
            self._order = SeedableRandomSampler(range(rows), data_seed=seed)

    def __len__(self) -> int:
        return self._rows + self._blanks

    def __iter__(self) -> Iterator[int]:
        yield from self._order
        yield from [self._rows] * self._blanks

    def set_epoch(self, epoch: int) -> None:
        """Fixes the order by the epoch: the same in every process, and after resuming."""
        if isinstance(self._order, SeedableRandomSampler):
            self._order.set_epoch(epoch)
