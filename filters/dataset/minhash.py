"""Keys and shingles of texts, for `filters.dataset.duplicates`. Any process can compute them, text by text.

A text's keys are a digest of its words and the LSH bands of its MinHash signature, computed by rensa. Texts
with equal words share all keys; texts that share many shingles, which are word n-grams, share a band
(Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4). The shingle hashes themselves give
the Jaccard similarity; of a long text only the smallest are kept (Broder 1997).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field
from rensa import RMinHash

from filters.dataset.ngrams import Hashes, Indices, batches, ngram_hashes, split_words

Threshold = Annotated[float, Field(ge=0.3, le=1)]
Length = Annotated[int, Field(ge=1, le=50)]
Hashes32 = npt.NDArray[np.uint32]

BANDS = 16
KEYS = 1 + BANDS
RECALL = 0.95  # of pairs whose similarity is the threshold
MAX_SHINGLES = 1024  # kept of a text
_MAX_BAND_LENGTH = 16
_SEED = 1
_STEP, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)


def text_keys(texts: Sequence[str], *, threshold: Threshold = 0.8, ngram: Length = 5) -> Hashes:
    """[t, KEYS] the keys of t texts, with shingles of `ngram` words.

    Two texts whose Jaccard similarity is the threshold share a band with probability RECALL or more.
    """
    length = _band_length(threshold)
    parts = [np.column_stack([digests, _bands(ngrams, length)]) for digests, ngrams in _hashes(texts, ngram)]
    return np.concatenate([np.empty((0, KEYS), np.uint64), *parts])


def text_shingles(texts: Sequence[str], *, ngram: Length = 5) -> list[Hashes32]:
    """The smallest shingle hashes of each text, ascending; at most MAX_SHINGLES."""
    return [
        _smallest((hashes >> _HALF).astype(np.uint32))
        for _, ngrams in _hashes(texts, ngram)
        for hashes in ngrams
    ]


def jaccard(a: Hashes32, b: Hashes32) -> float:
    """Jaccard similarity of two texts' shingles; an estimate for long texts, within 0.03 in 95 % of cases."""
    limit = MAX_SHINGLES if max(len(a), len(b)) == MAX_SHINGLES else None  # larger hashes were dropped
    merged = np.sort(np.concatenate([a, b]))
    repeated = merged[1:] == merged[:-1]
    union = merged[np.append(True, ~repeated)][:limit]
    both = merged[1:][repeated]
    return float(np.searchsorted(both, union[-1], side="right") / len(union))


def _hashes(texts: Sequence[str], ngram: int) -> Iterator[tuple[Hashes, list[Hashes]]]:
    """Yields, for a batch of texts, the digest of each and the hashes of its word n-grams."""
    for _, some in batches(texts):
        words = split_words(some)
        by_text = _split(words.hashes, words.text_of, len(some))
        digests = np.array([_digest(hashes) for hashes in by_text], np.uint64)
        hashes, first = ngram_hashes(words, ngram)
        ngrams = _split(hashes, words.text_of[first], len(some))
        # A text of fewer words than one shingle is a shingle itself.
        yield digests, [each if len(each) else digests[i : i + 1] for i, each in enumerate(ngrams)]


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


def _bands(ngrams: Sequence[Hashes], length: int) -> Hashes:
    """[t, BANDS] one hash of every `length` signature values."""
    limits = np.cumsum([0, *map(len, ngrams)], dtype=np.uint64)
    hashes = np.concatenate(ngrams)
    signatures = RMinHash.digest_matrix_from_flat_token_hashes(hashes, limits, BANDS * length, _SEED)
    values = np.array(signatures.to_rows(), np.uint64).reshape(len(ngrams), BANDS, length)
    bands = np.zeros((len(ngrams), BANDS), np.uint64)
    for k in range(length):
        bands = (bands ^ values[:, :, k]) * _STEP
        bands ^= bands >> _HALF
    return bands
