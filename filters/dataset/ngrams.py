r"""Texts as words in one spelling, and hashes of the words' n-grams: what looks across rows compares these.

Texts become equal that differ in case, blanks, punctuation, LaTeX markup or Unicode form alone; a symbol has
the name of its LaTeX command. A word is a run of letters, a number (1,234 is 1234, and 3.5 is one word) or a
sign of arithmetic: 3 + 4 is not 3 - 4.

Hundreds of texts are read at once, by NumPy. The hashes are polynomials as Rabin and Karp's (1987), the same
on every machine, and no proof of equality where a text was made to collide: compare the words then.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
EndpointPool = npt.NDArray[np.int64]

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

_ARGUMENT = r"\s?(?:\{([^{}]*)\}|(\w))"  # of a command
_FRACTION = re.compile(rf"\\[cdt]?frac{_ARGUMENT}{_ARGUMENT}")
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s?\{[A-Za-z]{1,20}\*?\}(?:\{[lcr|]{1,20}\})?")
_DEGREE = re.compile(r"\^\s?\{?\s?\\circ(?![A-Za-z])\s?\}?|\\degree(?![A-Za-z])")
_MARKUP = re.compile(
    r"text(?:bf|it|rm|normal|style)?|math(?:rm|bf|it|sf|bb)|mbox|operatorname|left|right|[bB]igg?|displaystyle"
    r"|q?quad|begin|end|boxed|fbox|[cdt]?frac|limits|[lcvd]?dots|[lr]?[vV]ert|mid|[lr](?:floor|ceil|angle|brace)"
)


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split(":") for pair in text.split())


_COMMAND_SIGNS = _pairs(
    "times:* cdot:* div:/ le:<= leq:<= leqslant:<= ge:>= geq:>= geqslant:>= lt:< gt:> ne:neq rightarrow:to"
    " varepsilon:epsilon varphi:phi vartheta:theta iff:leftrightarrow implies:rightarrow varnothing:emptyset"
)
_OTHER_SIGNS = _pairs("×:* ·:* ⋅:* ∗:* ÷:/ ⁄:/ ∕:/ −:- ≤:<= ⩽:<= ≥:>= ⩾:>=")  # noqa: RUF001
_NAMES = _pairs(  # of the commands for what is no letter
    "√:sqrt ∞:infty ∈:in ∉:notin ∅:emptyset ∪:cup ∩:cap ⊂:subset ⊆:subseteq ∑:sum ∏:prod ∫:int"  # noqa: RUF001
    " ∂:partial ∇:nabla ∀:forall ∃:exists →:to ↦:mapsto ⇒:rightarrow ⇔:leftrightarrow ↔:leftrightarrow"
    " ≠:neq ≈:approx ≡:equiv ≅:cong ∼:sim ±:pm ∓:mp °:degree ∘:circ △:triangle ∠:angle ∥:parallel"  # noqa: RUF001
    " ⊥:perp ⊕:oplus"
)
# Beside another one it is a letter of a Greek word. The letter comes first: a search can jump to it.
_GREEK = re.compile(r"[µΑ-Ωα-ωϑϕϵ](?<![Ͱ-Ͽἀ-῿].)(?![Ͱ-Ͽἀ-῿])", re.DOTALL)
_GREEK_NAMES = {"ς": "sigma", "ϑ": "theta", "ϕ": "phi", "ϵ": "epsilon", "µ": "mu"}

_STEP, _MIX = np.uint64(0x5851F42D4C957F2D), np.uint64(0xFF51AFD7ED558CCD)
_FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)  # masks


class Words(NamedTuple):
    """The w words of several texts, in order."""

    folded: bytes  # the texts, where `starts` and `ends` point to
    starts: EndpointPool  # [w]
    ends: EndpointPool  # [w]
    rows: EndpointPool  # [w] which of the texts a word is of
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


def error_message(texts: Sequence[str]) -> Words:
    """Read texts, all at once: it takes 30 times their length of memory, so long lists go by `batches`."""
    lines = [_fold(text) for text in texts]
    folded = b"".join([b" ", *lines, b" " * 8])  # so that eight bytes can be read wherever a word begins
    starts, ends = _spans(folded)
    rows = np.searchsorted(np.cumsum([1, *map(len, lines)]), starts, side="right") - 1
    return Words(folded, starts, ends, rows, _hash_words(folded, starts, ends))


def windows(words: Words, n: int) -> tuple[Hashes, EndpointPool]:
    """The hashes [m] of all n-grams that lie within one text, and which word [m] each begins with."""
    hashes = _runs(words.hashes, n)
    m = len(hashes)
    first = np.flatnonzero(words.rows[:m] == words.rows[n - 1 : n - 1 + m])
    return _mixed(hashes[first]), first


def wholes(words: Words, limit: int) -> tuple[Hashes, EndpointPool]:
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
        text = _GREEK.sub(_greek_name, unicodedata.normalize("NFC", text)).translate(_FORMS)
    line = text.encode().translate(_LOWER).replace(b"**", b" ")  # bold, not a product
    return _THOUSANDS.sub(b"", line) + b" "


def _without_latex(text: str) -> str:
    text = _ENVIRONMENT.sub(" ", text) if "\\begin" in text else text
    text = _DEGREE.sub(" degree ", text) if "\\circ" in text or "\\degree" in text else text
    text = _FRACTION.sub(r" \1\2/\3\4 ", text) if "frac" in text else text
    return _COMMAND.sub(lambda command: _spelling(command[1]), text)


@lru_cache(maxsize=4096)
def _spelling(command: str) -> str:
    return "  " if _MARKUP.fullmatch(command) else f" {_COMMAND_SIGNS.get(command, command)} "


def _greek_name(letter: re.Match[str]) -> str:
    """Theta has the name of its command."""
    known = _GREEK_NAMES.get(letter[0])
    return f" {known or unicodedata.name(letter[0]).rpartition(' ')[2].lower()} "


class _Forms(dict[int, str]):
    """What `str.translate` puts for each character; outside ASCII it is found once and kept."""

    def __missing__(self, code: int) -> str:
        form = self[code] = _form(chr(code))
        return form


def _form(c: str) -> str:
    """NFKC and case folding, but 2² stays apart from 22; what is no letter, digit or sign is a blank."""
    if c in _NAMES:
        return f" {_NAMES[c]} "
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


def _spans(folded: bytes) -> tuple[EndpointPool, EndpointPool]:
    """Where words begin and end: where the class of a character changes, and around every sign.

    A hyphen is one between words of two letters or more: x-y is a difference.
    """
    characters = np.frombuffer(folded, np.uint8)
    classes = np.frombuffer(folded.translate(_CLASSES), np.uint8).copy()
    at = np.flatnonzero(characters == _DOT)  # 3.5
    classes[at[(classes[at - 1] == _DIGIT) & (classes[at + 1] == _DIGIT)]] = _DIGIT
    at = np.flatnonzero(characters == _HYPHEN)  # twenty-one
    for side in (-2, -1, 1, 2):
        at = at[classes[at + side] == _LETTER]
    classes[at] = _NO_WORD_HERE
    cuts = (classes[1:] != classes[:-1]) | (classes[1:] == _SIGN)
    edges = np.flatnonzero(cuts) + 1
    real = classes[edges] != _NO_WORD_HERE  # the others are where blanks begin; a text ends in blanks
    return edges[real], np.append(edges[1:], len(folded))[real]


def _hash_words(folded: bytes, starts: EndpointPool, ends: EndpointPool) -> Hashes:
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
