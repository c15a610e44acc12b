"""The last batch of an epoch on several processes: filled with blank rows, so that no example comes twice.

Each process needs as many batches as the others. accelerate would take examples from the epoch's beginning
again; a blank row has no label, so a step is the same on one process and on many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Sampler

from pipeline.train.trainer.tokens import IGNORED


def with_blank(rows: datasets.Dataset, padding: int) -> datasets.Dataset:
    """The rows and, behind them, one that is padding alone."""

    def blank(row: Mapping[str, Any]) -> dict[str, Any]:
        lists: dict[str, Any] = {name: [] for name, value in row.items() if isinstance(value, list)}
        return lists | {"input_ids": [padding] * 2, "labels": [IGNORED] * 2}

    last = rows.select([0]).map(blank, features=rows.features, keep_in_memory=True)
    return datasets.concatenate_datasets([rows, last])


def without_blanks(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Those that teach something; where there are none, a blank one, as a batch cannot be empty."""
    return [row for row in rows if teaches(row)] or rows[:1]


def teaches(row: Mapping[str, Any]) -> bool:
    """Whether any token of it has a label."""
    return any(label != IGNORED for label in row["labels"])


class Filled(Sampler[int]):
    """The rows 0 to n - 1 in the order of the epoch, then n, the blank one, up to a multiple of `size`."""

    def __init__(self, rows: int, size: int, seed: int | None) -> None:
        """`seed` None: in their own order."""
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
        """The same epoch has the same order in every process, and when it is gone on with."""
        if isinstance(self._order, SeedableRandomSampler):
            self._order.set_epoch(epoch)
