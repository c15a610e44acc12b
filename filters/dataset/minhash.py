"""MinHash sketches of texts, which `filters.dataset.duplicates` compares; made text by text in any process.

The words' digest finds texts with the same words. Bands of a MinHash signature, by the library rensa, find
texts that share many shingles, which are runs of some words (Leskovec, Rajaraman and Ullman, Mining of
Massive Datasets, 3.4). The shingles' own hashes then say how many: all of them, or of a long text the
smallest (Broder 1997).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field
from rensa import RMinHash

from filters.dataset.ngrams import EndpointPool, Hashes, batches, error_message, windows

Threshold = Annotated[float, Field(ge=0.3, le=1)]
Length = Annotated[int, Field(ge=1, le=50)]
Codes = npt.NDArray[np.uint32]

BANDS = 16
RECALL = 0.95  # of pairs at the threshold
SHINGLES = 1024  # kept of a text
_LONGEST_BAND = 16
_SEED = 1
_STEP, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)


class Sketch(NamedTuple):
    """What is compared of t texts."""

    digests: Hashes  # [t] of all words in their order
    bands: Codes  # [t, BANDS]
    counts: EndpointPool  # [t] of shingles, at most SHINGLES
    shingles: Codes  # [sum of counts] the smallest hashes of each text, ascending


EMPTY_COMPLETION = Sketch(
    np.empty(0, np.uint64), np.empty((0, BANDS), np.uint32), np.empty(0, np.int64), np.empty(0, np.uint32)
)


def sketch(texts: Sequence[str], *, threshold: Threshold = 0.8, ngram: Length = 5) -> Sketch:
    """The sketches of texts, with shingles of `ngram` words; 1.5 kB for a text of 2 kB.

    Two texts whose Jaccard similarity is the threshold agree in a band with a chance of 95 % or more.
    """
    return joined(_sketch(some, _band_length(threshold), ngram) for _, some in batches(texts))


def joined(parts: Iterable[Sketch]) -> Sketch:
    """The sketches of all the texts, in order."""
    return Sketch(*(np.concatenate(arrays) for arrays in zip(EMPTY_COMPLETION, *parts, strict=True)))


def similarity(ours: Codes, theirs: Codes) -> float:
    """The Jaccard similarity of two texts by their shingles; of long texts within 0.03 of it (95 %)."""
    limit = SHINGLES if max(len(ours), len(theirs)) == SHINGLES else None  # beyond it not all are known
    merged = np.sort(np.concatenate([ours, theirs]))
    again = merged[1:] == merged[:-1]
    union = merged[np.append(True, ~again)][:limit]
    both = merged[1:][again]
    return float(np.searchsorted(both, union[-1], side="right") / len(union))


def _sketch(texts: Sequence[str], band_length: int, ngram: int) -> Sketch:
    words = error_message(texts)
    digests = np.array([_digest(part) for part in _by_text(words.hashes, words.rows, len(texts))], np.uint64)
    hashes, first = windows(words, ngram)
    runs = _by_text(hashes, words.rows[first], len(texts))
    runs = [run if len(run) else digests[i : i + 1] for i, run in enumerate(runs)]  # too short: one shingle
    shingles = [_smallest((run >> _HALF).astype(np.uint32)) for run in runs]
    counts = np.array([len(some) for some in shingles])
    return Sketch(digests, _bands(runs, band_length), counts, np.concatenate(shingles))


def _smallest(codes: Codes) -> Codes:
    ordered = np.sort(codes)  # np.unique takes five times as long
    return ordered[np.append(True, ordered[1:] != ordered[:-1])][:SHINGLES]


def _by_text(values: Hashes, rows: EndpointPool, texts: int) -> list[Hashes]:
    limits = np.searchsorted(rows, np.arange(texts + 1)).tolist()
    return [values[start:end] for start, end in pairwise(limits)]


def _digest(hashes: Hashes) -> int:
    return int.from_bytes(hashlib.blake2b(hashes.tobytes(), digest_size=8).digest(), "little")


def _band_length(threshold: float) -> int:
    """The most values a band with which RECALL holds: the longer, the fewer pairs are proposed in vain."""
    if threshold == 1:
        return _LONGEST_BAND
    one_band = 1 - (1 - RECALL) ** (1 / BANDS)  # how likely a given band must agree
    return min(_LONGEST_BAND, max(1, int(math.log(one_band) / math.log(threshold))))


def _bands(runs: Sequence[Hashes], length: int) -> Codes:
    """[t, BANDS] one hash for `length` values of the signature."""
    limits = np.cumsum([0, *map(len, runs)], dtype=np.uint64)
    hashes = np.concatenate(runs)
    signatures = RMinHash.digest_matrix_from_flat_token_hashes(hashes, limits, BANDS * length, _SEED)
    values = np.array(signatures.to_rows(), np.uint64).reshape(len(runs), BANDS, length)
    bands = np.zeros((len(runs), BANDS), np.uint64)
    for k in range(length):
        bands = (bands ^ values[:, :, k]) * _STEP
        bands ^= bands >> _HALF
    return (bands >> _HALF).astype(np.uint32)
