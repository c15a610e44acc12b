"""MinHash sketches of texts, for `filters.dataset.duplicates`. Any process can compute them, text by text.

A digest of the words finds texts with equal words. LSH bands of a MinHash signature, computed by rensa, find
candidates that share many shingles, which are word n-grams (Leskovec, Rajaraman and Ullman, Mining of Massive
Datasets, section 3.4). The shingle hashes themselves then give the Jaccard similarity; of a long text only
the smallest are kept (Broder 1997).
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

from filters.dataset.ngrams import Hashes, Indices, batches, ngram_hashes, split_words

Threshold = Annotated[float, Field(ge=0.3, le=1)]
Length = Annotated[int, Field(ge=1, le=50)]
Hashes32 = npt.NDArray[np.uint32]

BANDS = 16
RECALL = 0.95  # of pairs whose similarity is the threshold
MAX_SHINGLES = 1024  # kept of a text
_MAX_BAND_LENGTH = 16
_SEED = 1
_STEP, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)


class Sketch(NamedTuple):
    """Sketches of t texts."""

    digests: Hashes  # [t] of all words in order
    bands: Hashes32  # [t, BANDS]
    counts: Indices  # [t] shingles of each text, at most MAX_SHINGLES
    shingles: Hashes32  # [sum of counts] the smallest hashes of each text, ascending


EMPTY = Sketch(
    np.empty(0, np.uint64), np.empty((0, BANDS), np.uint32), np.empty(0, np.int64), np.empty(0, np.uint32)
)


def sketch(texts: Sequence[str], *, threshold: Threshold = 0.8, ngram: Length = 5) -> Sketch:
    """Computes sketches with shingles of `ngram` words, 1.5 kB for a text of 2 kB.

    Two texts whose Jaccard similarity is the threshold share a band with probability RECALL or more.
    """
    return concatenate(_sketch(some, _band_length(threshold), ngram) for _, some in batches(texts))


def concatenate(parts: Iterable[Sketch]) -> Sketch:
    return Sketch(*(np.concatenate(arrays) for arrays in zip(EMPTY, *parts, strict=True)))


def jaccard(a: Hashes32, b: Hashes32) -> float:
    """Jaccard similarity of two texts' shingles; an estimate for long texts, within 0.03 in 95 % of cases."""
    limit = MAX_SHINGLES if max(len(a), len(b)) == MAX_SHINGLES else None  # larger hashes were dropped
    merged = np.sort(np.concatenate([a, b]))
    repeated = merged[1:] == merged[:-1]
    union = merged[np.append(True, ~repeated)][:limit]
    both = merged[1:][repeated]
    return float(np.searchsorted(both, union[-1], side="right") / len(union))


def _sketch(texts: Sequence[str], band_length: int, ngram: int) -> Sketch:
    words = split_words(texts)
    by_text = _split(words.hashes, words.text_of, len(texts))
    digests = np.array([_digest(hashes) for hashes in by_text], np.uint64)
    hashes, first = ngram_hashes(words, ngram)
    ngrams = _split(hashes, words.text_of[first], len(texts))
    # A text of fewer words than one shingle is a shingle itself.
    ngrams = [some if len(some) else digests[i : i + 1] for i, some in enumerate(ngrams)]
    shingles = [_smallest((some >> _HALF).astype(np.uint32)) for some in ngrams]
    counts = np.array([len(some) for some in shingles])
    return Sketch(digests, _bands(ngrams, band_length), counts, np.concatenate(shingles))


def _smallest(hashes: Hashes32) -> Hashes32:
    ordered = np.sort(hashes)  # np.unique takes five times as long
    distinct: Hashes32 = ordered[np.append(True, ordered[1:] != ordered[:-1])]
    return distinct[:MAX_SHINGLES]


def _split(values: Hashes, text_of: Indices, texts: int) -> list[Hashes]:
    """Splits values by the text they belong to."""
    limits = np.searchsorted(text_of, np.arange(texts + 1)).tolist()
    return [values[start:end] for start, end in pairwise(limits)]


def _digest(hashes: Hashes) -> int:
    return int.from_bytes(hashlib.blake2b(hashes.tobytes(), digest_size=8).digest(), "little")


def _band_length(threshold: float) -> int:
    """The most signature values per band that give RECALL; longer bands give fewer false candidates."""
    if threshold == 1:
        return _MAX_BAND_LENGTH
    one_band = 1 - (1 - RECALL) ** (1 / BANDS)  # minimum probability that a given band agrees
    return min(_MAX_BAND_LENGTH, max(1, int(math.log(one_band) / math.log(threshold))))


def _bands(ngrams: Sequence[Hashes], length: int) -> Hashes32:
    """[t, BANDS] one hash of every `length` signature values."""
    limits = np.cumsum([0, *map(len, ngrams)], dtype=np.uint64)
    hashes = np.concatenate(ngrams)
    signatures = RMinHash.digest_matrix_from_flat_token_hashes(hashes, limits, BANDS * length, _SEED)
    values = np.array(signatures.to_rows(), np.uint64).reshape(len(ngrams), BANDS, length)
    bands = np.zeros((len(ngrams), BANDS), np.uint64)
    for k in range(length):
        bands = (bands ^ values[:, :, k]) * _STEP
        bands ^= bands >> _HALF
    return (bands >> _HALF).astype(np.uint32)
