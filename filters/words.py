r"""Texts as words in one spelling, and hashes of the words' n-grams: what looks across rows compares these.

Texts become equal that differ in case, blanks, punctuation, LaTeX markup or Unicode form alone. A word is a
run of letters, a number (1,234 is 1234, and 3.5 is one word) or a sign of arithmetic: 3 + 4 is not 3 - 4.

Hundreds of texts are read at once, by NumPy. The hashes are polynomials as Rabin and Karp's (1987), the same
on every machine, and no proof of equality where a text was made to collide: compare the words then.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

_AT_ONCE = 1 << 18  # characters
WORD_LIMIT = 1024  # bytes of a word that its hash looks at

_NO_WORD_HERE, _LETTER, _DIGIT, _SIGN = range(4)
_HYPHEN, _DOT = b"-."
_LOWER = bytes(range(256)).lower()
_SIGNS = "+-*/=<>^%"


def _class(c: int) -> int:
    if c >= 128 or chr(c).isalpha():
        return _LETTER
    if chr(c).isdigit():
        return _DIGIT
    return _SIGN if chr(c) in _SIGNS else _NO_WORD_HERE


_CLASSES = bytes(map(_class, range(256)))
_THOUSANDS = re.compile(rb",(?<=\d,)(?=\d{3}(?!\d))")  # the comma comes first: a search can jump to it

_FRACTION = re.compile(r"\\[dt]?frac\s?\{([^{}]*)\}\s?\{([^{}]*)\}")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_MARKUP = re.compile(
    r"text(?:bf|it|rm|normal|style)?|math(?:rm|bf|it|sf|bb)|mbox|operatorname|left|right|[bB]igg?|displaystyle"
    r"|q?quad|begin|end|boxed|fbox|[dt]?frac|limits"
)
_COMMAND_SIGNS = {"times": "*", "cdot": "*", "div": "/", "le": "<=", "leq": "<=", "ge": ">=", "geq": ">="}
_OTHER_SIGNS = {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "⁄": "/", "≤": "<=", "≥": ">="}  # noqa: RUF001

_STEP, _MIX = np.uint64(0x5851F42D4C957F2D), np.uint64(0xFF51AFD7ED558CCD)
_FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)  # masks


class Words(NamedTuple):
    """The w words of several texts, in order."""

    folded: bytes  # the texts, where `starts` and `ends` point to
    starts: Places  # [w]
    ends: Places  # [w]
    rows: Places  # [w] which of the texts a word is of
    hashes: Hashes  # [w]

    def quote(self, first: int, last: int) -> str:
        """The words from `first` up to, not with, `last`, a blank between two."""
        spans = zip(self.starts[first:last].tolist(), self.ends[first:last].tolist(), strict=True)
        return b" ".join(self.folded[start:end] for start, end in spans).decode("utf-8", "replace")


def batches(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """As many texts at a time as are read at once, with the position of the first."""
    start = size = 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= _AT_ONCE:
            yield start, texts[start : i + 1]
            start, size = i + 1, 0
    if start < len(texts):
        yield start, texts[start:]


def words_of(texts: Sequence[str]) -> Words:
    """Read texts, all at once: it takes 30 times their length of memory, so long lists go by `batches`."""
    lines = [_fold(text) for text in texts]
    folded = b"".join([b" ", *lines, b" " * 8])  # so that eight bytes can be read wherever a word begins
    starts, ends = _spans(folded)
    rows = np.searchsorted(np.cumsum([1, *map(len, lines)]), starts, side="right") - 1
    return Words(folded, starts, ends, rows, _hash_words(folded, starts, ends))


def windows(words: Words, n: int) -> tuple[Hashes, Places]:
    """The hashes [m] of all n-grams that lie within one text, and which word [m] each begins with."""
    hashes = _runs(words.hashes, n)
    m = len(hashes)
    first = np.flatnonzero(words.rows[:m] == words.rows[n - 1 : n - 1 + m])
    return _mixed(hashes[first]), first


def wholes(words: Words, limit: int) -> tuple[Hashes, Places]:
    """The hashes [t] of whole texts of fewer than `limit` words, and which word [t] each begins with."""
    first = np.flatnonzero(np.diff(words.rows, prepend=-1))
    counts = np.diff(first, append=len(words.rows))
    first, counts = first[counts < limit], counts[counts < limit]
    hashes = counts.astype(np.uint64)
    for k in range(limit - 1):
        more = np.flatnonzero(counts > k)
        hashes[more] = hashes[more] * _STEP + words.hashes[first[more] + k]
    return _mixed(hashes), first


def _runs(hashes: Hashes, n: int) -> Hashes:
    """The polynomials of all runs of n words, out of those of runs half as long."""
    if n == 1 or len(hashes) < n:
        return hashes[: max(len(hashes) - n + 1, 0)]
    half = n // 2
    runs = _runs(hashes, half)
    runs = runs[:-half] * _STEP ** np.uint64(half) + runs[half:]
    return runs[:-1] * _STEP + hashes[n - 1 :] if n % 2 else runs


def _fold(text: str) -> bytes:
    """Lower case UTF-8 that ends in a blank, with commands and forms spelt out and no commas in numbers."""
    text = text.replace("{,}", ",")  # how LaTeX writes the comma of a number
    if "\\" in text:
        text = _without_latex(text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_FORMS)
    line = text.encode().translate(_LOWER).replace(b"**", b" ")  # bold, not a product
    return _THOUSANDS.sub(b"", line) + b" "


def _without_latex(text: str) -> str:
    text = _FRACTION.sub(r" \1/\2 ", text)
    return _COMMAND.sub(lambda command: f" {_spelling(command[1])} ", text)


def _spelling(command: str) -> str:
    return "" if _MARKUP.fullmatch(command) else _COMMAND_SIGNS.get(command, command)


class _Forms(dict[int, str]):
    """What `str.translate` puts for each character; outside ASCII it is found once and kept."""

    def __missing__(self, code: int) -> str:
        form = self[code] = _form(chr(code))
        return form


def _form(c: str) -> str:
    """NFKC and case folding, but 2² stays apart from 22; what is no letter, digit or sign is a blank."""
    if c.isascii() or c in _OTHER_SIGNS:
        return _OTHER_SIGNS.get(c, c)
    if unicodedata.category(c) == "Cf":  # soft hyphens and other characters that nobody sees
        return ""
    form = "".join(map(_kept, unicodedata.normalize("NFKC", c).casefold()))
    kind = unicodedata.decomposition(c).partition(" ")[0]
    if kind == "<super>":
        return "^" + form
    if kind == "<fraction>" or "\u3040" <= c <= "\u30ff" or "\u3400" <= c <= "\u9fff":
        return f" {form} "  # 1½ is not 11/2; Chinese and Japanese put no blanks between words
    return form


def _kept(c: str) -> str:
    c = _OTHER_SIGNS.get(c, c)
    return c if c.isalnum() or c in _SIGNS or unicodedata.category(c).startswith("M") else " "


_FORMS = _Forms()


def _spans(folded: bytes) -> tuple[Places, Places]:
    """Where words begin and end: where the class of a character changes, and around every sign."""
    characters = np.frombuffer(folded, np.uint8)
    classes = np.frombuffer(folded.translate(_CLASSES), np.uint8).copy()
    for mark, side, inside in ((_DOT, _DIGIT, _DIGIT), (_HYPHEN, _LETTER, _NO_WORD_HERE)):  # 3.5, twenty-one
        at = np.flatnonzero(characters == mark)
        between = (classes[at - 1] == side) & (classes[at + 1] == side)
        classes[at[between]] = inside
    cuts = (classes[1:] != classes[:-1]) | (classes[1:] == _SIGN)
    edges = np.flatnonzero(cuts) + 1
    real = classes[edges] != _NO_WORD_HERE  # the others are where blanks begin; a text ends in blanks
    return edges[real], np.append(edges[1:], len(folded))[real]


def _hash_words(folded: bytes, starts: Places, ends: Places) -> Hashes:
    """Eight bytes at a time, for all words that are so long."""
    eights = np.ndarray(len(folded) - 7, "<u8", folded, strides=(1,))
    lengths = ends - starts
    hashes = lengths.astype(np.uint64)
    longer = np.arange(len(starts))
    for done in range(0, WORD_LIMIT, 8):
        longer = longer[lengths[longer] > done]
        if not len(longer):
            break
        part = eights[starts[longer] + done] & _FIRST_BYTES[np.minimum(lengths[longer] - done, 8)]
        hashes[longer] = _mixed(hashes[longer] * _STEP + part)
    return hashes


def _mixed(hashes: Hashes) -> Hashes:
    """Every bit depends on all of them: the low bits of a product do not."""
    hashes = hashes ^ (hashes >> np.uint64(32))
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(29)
    return hashes
