"""Decontamination: does a trace hold a problem of an evaluation set, in its question or in what was
written?

By n-grams of words, as published recipes do it: s1 and open-r1 take n = 8, GPT-3 13 (Brown et al. 2020,
appendix C). Any run of n words that a text shares with an evaluation problem is a match, and the longest n
that matches is named. A text that is an evaluation problem of fewer than n words, word for word, matches as
a whole.

Numbers are words. So a problem told again with other numbers matches only where n words between two numbers
stayed as they were: rarely at n = 13, often at n = 8. A run that stands in more than `common` problems of
the evaluation sets is how such problems are put ("m and n are relatively prime integers find") and never
matches. The training problems have no say in that: what is often copied from an evaluation set would look
common too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from filters.dataset.ngrams import EndpointPool, Hashes, Words, batches, error_message, wholes, windows
from filters.result import FilterResult, failed, passed
from pipeline.errors import UserError
from pipeline.rows import Trace

Length = Annotated[int, Field(ge=4, le=50)]
Rows = npt.NDArray[np.int32]

_WHOLE = 0  # in the place of n: a text too short for an n-gram, taken whole
_SHOWN = 100  # words of a match


class Match(NamedTuple):
    source: str  # the name of the evaluation set
    row: str  # which of its rows
    n: int  # of the n-gram; 0 where a whole text matched
    text: str  # the words that the two share, from there on


class Contamination:
    """The n-grams of evaluation sets: 14 bytes each, and the questions themselves."""

    def __init__(
        self,
        sets: Mapping[str, Iterable[tuple[str, str]]],
        *,
        ngrams: Sequence[Length] = (8, 13),
        common: Annotated[int, Field(ge=1)] = 10,
    ) -> None:
        """`sets`: the name of each evaluation set -> the name of each of its rows, and the question.

        Raises UserError for a set without a question.
        """
        self._ngrams = sorted(set(ngrams), reverse=True)
        self._rows = [(name, row, text) for name, rows in sets.items() for row, text in rows]
        for name in sets:
            if not any(source == name and text.strip() for source, _, text in self._rows):
                raise UserError(f"evaluation set {name!r} has no question to decontaminate against")
        parts = [self._entries(start, some) for start, some in batches([text for *_, text in self._rows])]
        self._tables = {n: _Table([part.pop(n) for part in parts], common) for n in [*self._ngrams, _WHOLE]}

    def matches(self, texts: Sequence[str]) -> list[Match | None]:
        """For each text the first of the longest n-grams that it shares with an evaluation problem."""
        found: list[Match | None] = []
        for _, some in batches(texts):
            found += self._matches(some)
        return found

    def findings(self, traces: Sequence[Trace]) -> list[FilterResult]:
        """One for each trace: failed if its question, its thought or its response has a match."""
        texts = [text for trace in traces for text in (trace.question, trace.reasoning or "", trace.response)]
        found = self.matches(texts)
        return [_finding(found[3 * i : 3 * i + 3]) for i in range(len(traces))]

    def _entries(self, start: int, texts: Sequence[str]) -> dict[int, tuple[Hashes, Rows]]:
        """For each n the hashes of the n-grams in the rows from `start` on, and the row of each."""
        words = error_message(texts)
        return {
            n: (hashes, (words.rows[first] + start).astype(np.int32))
            for n, hashes, first in self._runs(words)
        }

    def _runs(self, words: Words) -> Iterator[tuple[int, Hashes, EndpointPool]]:
        """For each n, the longest first: the hashes of n-grams and the word that each begins with."""
        for n in self._ngrams:
            yield n, *windows(words, n)
        yield _WHOLE, *wholes(words, self._ngrams[-1])

    def _matches(self, texts: Sequence[str]) -> list[Match | None]:
        words = error_message(texts)
        found: list[Match | None] = [None] * len(texts)
        for n, hashes, first in self._runs(words):
            at, rows = self._tables[n].find(hashes)
            for word, row in zip(first[at].tolist(), rows.tolist(), strict=True):
                text = words.rows[word]
                found[text] = found[text] or self._confirmed(words, word, n, row)
        return found

    def _confirmed(self, words: Words, word: int, n: int, row: int) -> Match | None:
        """The match from this word on, as far as both texts agree; None if their hashes alone do."""
        source, name, question = self._rows[row]
        other = f" {_spelt(question)} "
        last = int(np.searchsorted(words.rows, words.rows[word], side="right"))
        shared = words.quote(word, word + n if n else last)
        at = other.find(f" {shared} ")
        if at < 0 or (n == _WHOLE and shared != other.strip()):
            return None
        ours = words.quote(word, min(last, word + _SHOWN))
        pairs = zip(ours.split(), other[at:].split(), strict=False)
        same = takewhile(lambda pair: pair[0] == pair[1], pairs)
        return Match(source, name, n, " ".join(ours for ours, _ in same))


@lru_cache(maxsize=4096)
def _spelt(question: str) -> str:
    words = error_message([question])
    return words.quote(0, len(words.rows))


class _Table:
    """Which row an n-gram is of: sorted hashes; before them a bit for each, which answers most questions."""

    def __init__(self, parts: Sequence[tuple[Hashes, Rows]], common: int) -> None:
        hashes = np.concatenate([part[0] for part in parts])
        rows = np.concatenate([part[1] for part in parts])
        order = np.argsort(hashes, kind="stable")  # the rows of one hash stay in order
        hashes, rows = hashes[order], rows[order]
        another = np.append(True, (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1]))[: len(hashes)]
        hashes, first, problems = np.unique(hashes[another], return_index=True, return_counts=True)
        kept = problems <= common
        self._hashes, self._rows = hashes[kept], rows[another][first[kept]]
        size = 1 << max(10, 3 + len(self._hashes).bit_length())  # of 8 to 16 bits one is set
        self._mask = np.uint64(size - 1)
        bits = np.zeros(size, np.bool_)
        bits[self._hashes & self._mask] = True
        self._bits = np.packbits(bits, bitorder="little")

    def find(self, hashes: Hashes) -> tuple[EndpointPool, Rows]:
        """Which of the hashes are here, and the first row that each is of."""
        place = hashes & self._mask
        bits = self._bits[place >> np.uint64(3)] >> (place & np.uint64(7)).astype(np.uint8)
        likely = np.flatnonzero(bits & 1)
        at = np.searchsorted(self._hashes, hashes[likely])
        there = (
            np.flatnonzero(self._hashes.take(at, mode="clip") == hashes[likely])
            if len(self._hashes)
            else at[:0]
        )
        return likely[there], self._rows[at[there]]


def _finding(matches: Sequence[Match | None]) -> FilterResult:
    for where, match in zip(("question", "thought", "response"), matches, strict=True):
        if match:
            reason = f"{where}_{match.n}_gram" if match.n else f"{where}_whole"
            return failed(reason, f"{match.source} {match.row}: {match.text}")
    return passed()
