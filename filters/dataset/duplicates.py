"""Exact and near duplicates among texts: the first one stays, and those that are like it name it.

Exact duplicates have the same words (`filters.dataset.ngrams`), as a hash of 64 bits tells. Near duplicates
share shingles: the Jaccard similarity of their sets of shingles is at least `threshold`. Which pairs to look
at, the bands of their sketches say (`filters.dataset.minhash`); whether a pair counts, the shingles alone.

A text is compared with those that stay, in the order of adding, whoever sketched it. For traces the text
should hold the question, too: "The answer is 7" is no duplicate of itself under another one. A trace that
is rejected for another reason should come after those that are not, or not at all, lest it stand in a good
one's place.
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

from filters.dataset.minhash import EMPTY_COMPLETION, Codes, Sketch, Threshold, joined, similarity
from filters.dataset.ngrams import EndpointPool
from filters.result import FilterResult, failed, passed

BUCKET = 8  # staying texts that are remembered for one value of a band
COMPARED = 16  # texts that one is compared with: those that share most bands with it


class Duplicates:
    """Texts added one after the other, then the finding of each. A text takes about 430 bytes of memory."""

    def __init__(self, *, threshold: Threshold = 0.8, folder: Path | None = None) -> None:
        """`folder`: of a temporary file with 4 bytes a shingle; it should be on a disk, not in memory."""
        self._threshold = threshold
        self._ids: list[str] = []
        self._sketches: list[Sketch] = []  # without the shingles, which are in the file
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed on leaving

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, ids: Sequence[str], texts: Sketch) -> None:
        """Add texts by their sketches, made with the same threshold. ValueError: not as many ids."""
        if len(ids) != len(texts.digests):
            raise ValueError(f"{len(ids)} ids for {len(texts.digests)} sketches")
        self._ids += ids
        self._sketches.append(texts._replace(shingles=EMPTY_COMPLETION.shingles))
        self._file.write(texts.shingles.tobytes())

    def findings(self) -> Iterator[FilterResult]:
        """For each text, in the order of adding: fit, or failed with the id that it duplicates as evidence."""
        self._file.flush()
        self._sketches = [joined(self._sketches)]
        ends = np.cumsum(self._sketches[0].counts) * 4
        staying: defaultdict[int, list[int]] = defaultdict(list)  # bucket -> the first texts in it that stay
        for i, row in enumerate(_buckets(self._sketches[0])):
            shared = row[row > 0].tolist()  # with most texts nothing
            finding = self._finding(i, Counter(j for bucket in shared for j in staying[bucket]), ends)
            if finding.outcome == "passed":
                for bucket in shared:
                    if len(staying[bucket]) < BUCKET:
                        staying[bucket].append(i)
            yield finding

    def _finding(self, i: int, proposed: Counter[int], ends: EndpointPool) -> FilterResult:
        """Whether text i duplicates one of those proposed, each with the number of bands that it shares."""
        if not proposed:
            return passed()
        digests = self._sketches[0].digests
        same = [j for j in proposed if digests[j] == digests[i]]
        if same:
            return failed("duplicate", self._ids[min(same)])
        likely = sorted(proposed, key=lambda j: (-proposed[j], j))[:COMPARED]
        ours = self._shingles(i, ends)
        similar = {j: similarity(ours, self._shingles(j, ends)) for j in likely}
        closest = max(similar, key=lambda j: (similar[j], -j))
        if similar[closest] < self._threshold:
            return passed()
        return failed("near_duplicate", f"{self._ids[closest]}, similarity {similar[closest]:.2f}")

    def _shingles(self, i: int, ends: EndpointPool) -> Codes:
        start = int(ends[i - 1]) if i else 0
        return np.frombuffer(os.pread(self._file.fileno(), int(ends[i]) - start, start), np.uint32)


def _buckets(texts: Sketch) -> npt.NDArray[np.int32]:
    """[t, 1 + BANDS] a number for all texts with the same digest, or the same band; 0 for a text alone."""
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
