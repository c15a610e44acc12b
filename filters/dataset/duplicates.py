"""Exact and near-duplicate detection among texts. The first text of a cluster is kept.

Exact duplicates have the same words (`filters.dataset.ngrams`), by a 64-bit digest. Near-duplicates are
candidates that share an LSH band (`filters.dataset.minhash`) and whose shingles have a Jaccard similarity of
at least `threshold`.

A text is compared with earlier kept texts only, in the order in which texts are added. The text of a trace
should include its question: "The answer is 7" is no duplicate of the same answer to another question. Add
accepted traces only: a rejected trace must not displace a good one.

Most texts share no key with another. So a first pass over the texts takes their keys alone, and a second pass
takes the shingles of those that share one. Whatever grows with the number of texts is in temporary files.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, takewhile
from pathlib import Path
from typing import IO, Self

import numpy as np

from filters.dataset.minhash import KEYS, Hashes32, Threshold, jaccard
from filters.dataset.ngrams import Hashes, Indices
from filters.result import FilterResult, failed

MAX_BUCKET = 8  # kept texts remembered per bucket
MAX_CANDIDATES = 16  # candidates compared with a text: those that share most keys with it
# Sorted by each of the threads, with about 50 bytes of memory per key; more if one key is that of many texts
KEYS_AT_ONCE = 1 << 22
THREADS = 4
_BLOCK = 1 << 16  # keys read at once


class DuplicateIndex:
    """Finds the texts that share a key with another, then compares these with the kept ones before them.

    Takes at most 272 bytes of disk per text, and 4 per shingle of a kept text that shares a key. The files
    have no name, so the system removes them however the process ends.
    """

    def __init__(self, *, threshold: Threshold = 0.8, folder: Path | None = None) -> None:
        """`folder`: for the temporary files; it should be on a disk, not in memory."""
        self._threshold = threshold
        self._folder = folder
        self._keys = [tempfile.TemporaryFile(dir=folder) for _ in range(KEYS)]  # noqa: SIM115 - see __exit__
        self._ends = array("Q", [0])  # of the batches, in texts
        self._columns: list[tuple[Hashes32, memoryview]] = []  # made from each key by `_group`
        self._kept = _KeptTexts(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (*self._keys, self._kept.file):
            file.close()
        self._columns = []

    def add(self, keys: Hashes) -> None:
        """Adds a batch of texts by their keys [t, KEYS], made with the same threshold."""
        for file, column in zip(self._keys, keys.T, strict=True):
            file.write(column.tobytes())
        self._ends.append(self._ends[-1] + len(keys))

    def group(self) -> None:
        """Finds the texts that share a key; to be called after the last `add`."""
        with ThreadPoolExecutor(THREADS) as pool:  # NumPy sorts without Python's lock
            self._columns = list(pool.map(self._group, self._keys))

    def shared(self, batch: int) -> Indices:
        """Which texts of a batch share a key with any other text."""
        return np.flatnonzero(self._buckets(batch).any(axis=0))

    def compare(
        self, batch: int, ids: Sequence[str], shingles: Sequence[Hashes32]
    ) -> dict[str, FilterResult]:
        """Returns the failed results of a batch by id; the evidence is the id of the kept text.

        `ids` and `shingles` are those of its `shared` texts. Batches must come in order.
        """
        rows = self._buckets(batch)[:, self.shared(batch)].T.tolist()
        results = map(self._compare, ids, shingles, rows)
        return {key: result for key, result in zip(ids, results, strict=True) if result}

    def _buckets(self, batch: int) -> Hashes32:
        """[KEYS, t] the buckets of a batch's texts, equal for texts with an equal key; 0 for a text alone."""
        start, end = self._ends[batch : batch + 2]
        return np.array([buckets[start:end] for buckets, _ in self._columns])

    def _compare(self, key: str, shingles: Hashes32, row: Sequence[int]) -> FilterResult | None:
        """Compares a text with the kept texts of its buckets, and keeps it unless it fails."""
        buckets = [(kept, at) for (_, kept), at in zip(self._columns, row, strict=True) if at]
        known = [list(takewhile(bool, kept[at : at + MAX_BUCKET])) for kept, at in buckets]
        equal = known[0] if row[0] else []  # the first key is the digest
        if result := self._result(shingles, equal, Counter(chain.from_iterable(known))):
            return result
        number = self._kept.add(key, shingles)
        for (kept, at), texts in zip(buckets, known, strict=True):
            if len(texts) < MAX_BUCKET:
                kept[at + len(texts)] = number
        return None

    def _result(self, own: Hashes32, equal: Sequence[int], shared: Counter[int]) -> FilterResult | None:
        """Compares with kept texts, which are counted by the keys that they share."""
        if equal:
            return failed("duplicate", self._kept.read(equal[0])[0])
        likely = sorted(shared, key=lambda j: (-shared[j], j))[:MAX_CANDIDATES]
        similarity = {j: jaccard(own, self._kept.read(j)[1]) for j in likely}
        closest = max(similarity, key=lambda j: (similarity[j], -j), default=0)
        if not closest or similarity[closest] < self._threshold:
            return None
        return failed(
            "near_duplicate", f"{self._kept.read(closest)[0]}, similarity {similarity[closest]:.2f}"
        )

    def _group(self, file: IO[bytes]) -> tuple[Hashes32, memoryview]:
        """Returns the bucket of every text by one key, and the room for the kept texts of all buckets.

        A bucket's number is the place of its first kept text. It has a place for each of its texts, so a free
        one, which holds 0, follows the kept ones whenever another text comes.
        """
        file.flush()
        buckets = _mapped(self._ends[-1], self._folder)
        parts = 1 << (len(buckets) // KEYS_AT_ONCE).bit_length()
        used = 1
        for part in range(parts):
            texts, keys = _part_of(file, part, parts)
            order = np.argsort(keys)
            texts, keys = texts[order], keys[order]
            begins = np.append(True, keys[1:] != keys[:-1])[: len(keys)]
            several = ~(begins & np.append(begins[1:], True))
            first = np.flatnonzero(begins[several])
            buckets[texts[several]] = used + first[np.cumsum(begins[several]) - 1]
            used += int(np.count_nonzero(several))
        file.close()
        return buckets, _mapped(used, self._folder).data


class _KeptTexts:
    """Ids and shingles of kept texts, in a temporary file. The first one has the number 1."""

    def __init__(self, folder: Path | None) -> None:
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by the index
        self._ends = array("Q", [0])

    def add(self, key: str, shingles: Hashes32) -> int:
        """Adds a text and returns its number."""
        size = self.file.write(key.encode() + b"\0" + shingles.tobytes())
        self._ends.append(self._ends[-1] + size)
        return len(self._ends) - 1

    def read(self, number: int) -> tuple[str, Hashes32]:
        self.file.flush()
        start, end = self._ends[number - 1 : number + 1]
        key, _, shingles = os.pread(self.file.fileno(), end - start, start).partition(b"\0")
        return key.decode(), np.frombuffer(shingles, np.uint32)


def _part_of(file: IO[bytes], part: int, parts: int) -> tuple[Indices, Hashes]:
    """The keys of one of the parts, by their last bits, and the number of the text that each belongs to."""
    texts, keys, start = [], [], 0
    file.seek(0)
    while len(block := np.fromfile(file, np.uint64, _BLOCK)):
        chosen = np.flatnonzero(block & np.uint64(parts - 1) == part)
        texts.append(start + chosen)
        keys.append(block[chosen])
        start += len(block)
    return np.concatenate([*texts, np.empty(0, np.int64)]), np.concatenate([*keys, np.empty(0, np.uint64)])


def _mapped(size: int, folder: Path | None) -> Hashes32:
    """Zeros in a temporary file, which the system can take out of memory."""
    with tempfile.TemporaryFile(dir=folder) as file:
        # Reserved now, because a full disk is an error here and ends the process when the page is written.
        os.posix_fallocate(file.fileno(), 0, 4 * max(size, 1))
        return np.asarray(np.memmap(file, np.uint32, "r+", shape=(max(size, 1),))[:size])
