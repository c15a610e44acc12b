"""Decontamination: finds traces that contain a problem of an evaluation set, in any of their parts.

A match is a word n-gram shared with an evaluation problem, as in published recipes: s1 and open-r1 use n = 8,
GPT-3 used 13 (Brown et al. 2020, appendix C). The longest matching n is reported. An evaluation problem of
fewer than n words matches only a text that equals it, word for word.

Numbers are words. So a problem with changed numbers matches only if n words between two numbers are
unchanged: rarely at n = 13, often at n = 8. An n-gram in more than `common` evaluation problems is a common
phrase ("m and n are relatively prime integers find") and never matches. Training problems do not count for
that, since a frequently copied evaluation problem would look common. For the same reason a problem that the
evaluation sets hold several times counts once: files that repeat every problem 32 times are usual.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from filters.dataset.ngrams import (
    Hashes,
    Indices,
    Words,
    batches,
    ngram_hashes,
    short_text_hashes,
    split_words,
)
from filters.result import FilterResult, failed, passed
from pipeline.errors import UserError
from pipeline.rows import Trace

NgramLength = Annotated[int, Field(ge=4, le=50)]
Rows = npt.NDArray[np.int32]

_WHOLE = 0  # stands for n where a text shorter than every n-gram is compared as a whole
_MAX_SHOWN = 100  # words of a match


class Match(NamedTuple):
    source: str  # the name of the evaluation set
    row: str  # the name of its row
    n: int  # length of the n-gram; 0 if a whole text matched
    text: str  # the shared words, as far as both texts agree


class ContaminationIndex:
    """The n-grams of evaluation sets, 14 bytes each, and the questions themselves."""

    def __init__(
        self,
        sets: Mapping[str, Iterable[tuple[str, str]]],
        *,
        ngrams: Sequence[NgramLength] = (8, 13),
        common: Annotated[int, Field(ge=1)] = 10,
    ) -> None:
        """`sets`: name of an evaluation set -> name and question of each row.

        Raises UserError for a set without a question.
        """
        self._ngrams = sorted(set(ngrams), reverse=True)
        self._rows = [(name, row, text) for name, rows in sets.items() for row, text in rows]
        for name in sets:
            if not any(source == name and text.strip() for source, _, text in self._rows):
                raise UserError(f"evaluation set {name!r} has no question to decontaminate against")
        first = {" ".join(each[2].split()): each for each in reversed(self._rows)}
        self._rows = list(reversed(first.values()))
        parts = [self._entries(start, some) for start, some in batches([text for *_, text in self._rows])]
        self._tables = {n: _Table([part.pop(n) for part in parts], common) for n in [*self._ngrams, _WHOLE]}

    def matches(self, texts: Sequence[str]) -> list[Match | None]:
        """For each text, its first match among those of the longest n; None if there is none."""
        found: list[Match | None] = []
        for _, some in batches(texts):
            found += self._matches(some)
        return found

    def results(self, traces: Sequence[Trace]) -> list[FilterResult]:
        """One result per trace: failed if its question, reasoning or response has a match."""
        texts = [text for trace in traces for text in (trace.question, trace.reasoning or "", trace.response)]
        found = self.matches(texts)
        return [_result(found[3 * i : 3 * i + 3]) for i in range(len(traces))]

    def _entries(self, start: int, texts: Sequence[str]) -> dict[int, tuple[Hashes, Rows]]:
        """For each n, the hashes of the texts' n-grams and the row of each; `start` is the first row."""
        words = split_words(texts)
        return {
            n: (hashes, (words.text_of[first] + start).astype(np.int32))
            for n, hashes, first in self._hashes(words)
        }

    def _hashes(self, words: Words) -> Iterator[tuple[int, Hashes, Indices]]:
        """For each n, the longest first: the hashes of the n-grams and the first word of each."""
        for n in self._ngrams:
            yield n, *ngram_hashes(words, n)
        yield _WHOLE, *short_text_hashes(words, self._ngrams[-1])

    def _matches(self, texts: Sequence[str]) -> list[Match | None]:
        words = split_words(texts)
        found: list[Match | None] = [None] * len(texts)
        for n, hashes, first in self._hashes(words):
            at, rows = self._tables[n].find(hashes)
            for word, row in zip(first[at].tolist(), rows.tolist(), strict=True):
                text = words.text_of[word]
                found[text] = found[text] or self._match(words, word, n, row)
        return found

    def _match(self, words: Words, word: int, n: int, row: int) -> Match | None:
        """The match that begins with this word; None if only the hashes are equal."""
        source, name, question = self._rows[row]
        other = f" {_normalized(question)} "
        last = int(np.searchsorted(words.text_of, words.text_of[word], side="right"))
        shared = words.quote(word, word + n if n else last)
        at = other.find(f" {shared} ")
        if at < 0 or (n == _WHOLE and shared != other.strip()):
            return None
        own = words.quote(word, min(last, word + _MAX_SHOWN))
        pairs = zip(own.split(), other[at:].split(), strict=False)
        same = takewhile(lambda pair: pair[0] == pair[1], pairs)
        return Match(source, name, n, " ".join(word for word, _ in same))


@lru_cache(maxsize=4096)
def _normalized(question: str) -> str:
    words = split_words([question])
    return words.quote(0, len(words.hashes))


class _Table:
    """Finds the row of an n-gram by binary search in sorted hashes, after a bit filter that rejects most."""

    def __init__(self, parts: Sequence[tuple[Hashes, Rows]], common: int) -> None:
        hashes = np.concatenate([part[0] for part in parts])
        rows = np.concatenate([part[1] for part in parts])
        order = np.argsort(hashes, kind="stable")  # keeps the rows of one hash in order
        hashes, rows = hashes[order], rows[order]
        distinct = np.append(True, (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1]))[: len(hashes)]
        hashes, first, problems = np.unique(hashes[distinct], return_index=True, return_counts=True)
        kept = problems <= common
        self._hashes, self._rows = hashes[kept], rows[distinct][first[kept]]
        size = 1 << max(10, 3 + len(self._hashes).bit_length())  # one bit in 8 to 16 is set
        self._mask = np.uint64(size - 1)
        bits = np.zeros(size, np.bool_)
        bits[self._hashes & self._mask] = True
        self._bits = np.packbits(bits, bitorder="little")

    def find(self, hashes: Hashes) -> tuple[Indices, Rows]:
        """Indices of the hashes that are in the table, and the first row of each."""
        place = hashes & self._mask
        bits = self._bits[place >> np.uint64(3)] >> (place & np.uint64(7)).astype(np.uint8)
        likely = np.flatnonzero(bits & 1)
        if not len(self._hashes):
            return likely[:0], self._rows
        at = np.searchsorted(self._hashes, hashes[likely])
        found = np.flatnonzero(self._hashes.take(at, mode="clip") == hashes[likely])
        return likely[found], self._rows[at[found]]


def _result(matches: Sequence[Match | None]) -> FilterResult:
    for part, match in zip(("question", "reasoning", "response"), matches, strict=True):
        if match:
            reason = f"{part}_{match.n}_gram" if match.n else f"{part}_whole"
            return failed(reason, f"{match.source} {match.row}: {match.text}")
    return passed()
