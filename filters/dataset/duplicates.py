"""Exact and near-duplicate detection among texts. The first text of a cluster is kept.

Exact duplicates have the same words (`filters.dataset.ngrams`), by a 64-bit digest. Near-duplicates are
candidates that share an LSH band (`filters.dataset.minhash`) and whose shingles have a Jaccard similarity of
at least `threshold`.

A text is compared with earlier kept texts only, in the order in which texts are added. The text of a trace
should include its question: "The answer is 7" is no duplicate of the same answer to another question. Add
accepted traces only: a rejected trace must not displace a good one.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from filters.dataset.minhash import EMPTY, Hashes32, Sketch, Threshold, concatenate, jaccard
from filters.dataset.ngrams import Indices
from filters.result import FilterResult, failed, passed

MAX_BUCKET = 8  # kept texts remembered per bucket
MAX_CANDIDATES = 16  # candidates compared with a text: those that share most bands with it


class DuplicateIndex:
    """Collects sketches of texts, then decides which are duplicates. Takes about 430 bytes a text."""

    def __init__(self, *, threshold: Threshold = 0.8, folder: Path | None = None) -> None:
        """`folder`: for a temporary file of 4 bytes a shingle; it should be on a disk, not in memory."""
        self._threshold = threshold
        self._ids: list[str] = []
        self._sketches: list[Sketch] = []  # without the shingles, which are in the file
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, ids: Sequence[str], texts: Sketch) -> None:
        """Adds texts by sketches made with the same threshold. Raises ValueError if the lengths differ."""
        if len(ids) != len(texts.digests):
            raise ValueError(f"{len(ids)} ids for {len(texts.digests)} sketches")
        self._ids += ids
        self._sketches.append(texts._replace(shingles=EMPTY.shingles))
        self._file.write(texts.shingles.tobytes())

    def results(self) -> Iterator[FilterResult]:
        """Yields a result per text, in order; the evidence of a failure is the id of the kept text."""
        self._file.flush()
        self._sketches = [concatenate(self._sketches)]
        ends = np.cumsum(self._sketches[0].counts) * 4
        kept: defaultdict[int, list[int]] = defaultdict(list)  # bucket -> its first kept texts
        for i, row in enumerate(_buckets(self._sketches[0])):
            buckets = row[row > 0].tolist()  # usually none
            result = self._compare(i, Counter(j for bucket in buckets for j in kept[bucket]), ends)
            if result.outcome == "passed":
                for bucket in buckets:
                    if len(kept[bucket]) < MAX_BUCKET:
                        kept[bucket].append(i)
            yield result

    def _compare(self, i: int, candidates: Counter[int], ends: Indices) -> FilterResult:
        """Compares text i with candidates, which are counted by the buckets they share with it."""
        if not candidates:
            return passed()
        digests = self._sketches[0].digests
        if same := [j for j in candidates if digests[j] == digests[i]]:
            return failed("duplicate", self._ids[min(same)])
        likely = sorted(candidates, key=lambda j: (-candidates[j], j))[:MAX_CANDIDATES]
        own = self._shingles(i, ends)
        similarity = {j: jaccard(own, self._shingles(j, ends)) for j in likely}
        closest = max(similarity, key=lambda j: (similarity[j], -j))
        if similarity[closest] < self._threshold:
            return passed()
        return failed("near_duplicate", f"{self._ids[closest]}, similarity {similarity[closest]:.2f}")

    def _shingles(self, i: int, ends: Indices) -> Hashes32:
        start = int(ends[i - 1]) if i else 0
        return np.frombuffer(os.pread(self._file.fileno(), int(ends[i]) - start, start), np.uint32)


def _buckets(texts: Sketch) -> npt.NDArray[np.int32]:
    """[t, 1 + BANDS] bucket numbers, equal for texts with equal digest or band; 0 for a text alone."""
    columns = [texts.digests, *texts.bands.T]
    buckets = np.zeros((len(texts.digests), len(columns)), np.int32)
    used = 0
    for c, values in enumerate(columns):
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        begins = np.append(True, ordered[1:] != ordered[:-1])[: len(values)]
        groups = np.cumsum(begins)
        shared = np.bincount(groups)[groups] > 1
        buckets[order[shared], c] = used + 1 + groups[shared]
        used += 1 + len(values)
    return buckets
