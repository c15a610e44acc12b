"""A mix of lengths: at most a given share of the examples from each band of tokens.

The largest set of examples that meets all shares is kept. Which ones of a band that is, their ids and the
seed decide, so shards and their order do not matter.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from filters.rules.length import token_counts
from pipeline.config.select import LengthBand
from pipeline.rows import Trace
from pipeline.select.chat_format import hash_number


class Drawn(NamedTuple):
    """An example as the mix sees it."""

    band: int  # position in select.lengths; one more for examples longer than every band
    number: int


def draw(trace: Trace, bands: Sequence[LengthBand], seed: int) -> Drawn:
    tokens = sum(token_counts(trace))
    limits = [math.inf if band.max_tokens is None else band.max_tokens for band in bands]
    fits = (n for n, limit in enumerate(limits) if tokens <= limit)
    return Drawn(next(fits, len(bands)), hash_number("lengths", trace.id, seed))


def quotas(counts: Sequence[int], shares: Sequence[float]) -> list[int]:
    """The number of examples to keep of each band: the largest total with at most its share from each.

    Starts at all examples. A total that the bands cannot fill is lowered to what they fill, until it is met.
    """
    total = sum(counts)
    while True:
        # A share such as 0.3 of 10 is 3, although 0.3 * 10 is slightly more or less in floating point
        kept = [min(n, math.floor(share * total + 1e-9)) for n, share in zip(counts, shares, strict=True)]
        if sum(kept) == total:
            return kept
        total = sum(kept)


@dataclass(frozen=True)
class LengthMix:
    """Which examples stay."""

    bands: Sequence[LengthBand]
    seed: int
    limits: Sequence[int]  # by band: the examples that stay are those with a number below

    def keeps(self, trace: Trace) -> bool:
        example = draw(trace, self.bands, self.seed)
        return example.number < self.limits[example.band]


def mix_of(examples: Iterable[Drawn], bands: Sequence[LengthBand], seed: int) -> LengthMix:
    """The mix in which exactly the quota of each band stays."""
    numbers: Mapping[int, list[int]] = defaultdict(list)
    for example in examples:
        numbers[example.band].append(example.number)
    shares = [*(band.share for band in bands), 1.0]
    counts = [len(numbers[band]) for band in range(len(shares))]
    limits = (
        heapq.nsmallest(quota, numbers[band])[-1] + 1 if quota else 0
        for band, quota in enumerate(quotas(counts, shares))
    )
    return LengthMix(bands, seed, tuple(limits))
