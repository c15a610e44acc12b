r"""Splits texts into normalized words and hashes their word n-grams, for comparisons across traces.

Normalization removes differences in case, whitespace, punctuation, LaTeX markup and Unicode form; a symbol
gets the name of its LaTeX command. A word is a run of letters, a number (1,234 is 1234, and 3.5 is one word)
or an arithmetic sign: 3 + 4 is not 3 - 4.

NumPy processes hundreds of texts at once. The hashes are polynomial (Karp and Rabin 1987) and the same on
every machine. Hostile text can make them collide, so compare the words where that matters.
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
Indices = npt.NDArray[np.int64]

_BATCH = 1 << 18  # characters
WORD_LIMIT = 1024  # bytes of a word that are hashed

_OTHER, _LETTER, _DIGIT, _SIGN = range(4)
_HYPHEN, _DOT = b"-."
_LOWER = bytes(range(256)).lower()
_SIGNS = "+-*/=<>^%"


def _class(c: int) -> int:
    if c >= 128 or chr(c).isalpha():
        return _LETTER
    if chr(c).isdigit():
        return _DIGIT
    return _SIGN if chr(c) in _SIGNS else _OTHER


_CLASSES = bytes(map(_class, range(256)))
_THOUSANDS = re.compile(rb",(?<=\d,)(?=\d{3}(?!\d))")  # comma first, so that a search can skip to it

_ARGUMENT = r"\s?(?:\{([^{}]*)\}|(\w))"  # of a LaTeX command
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
_SYMBOL_NAMES = _pairs(
    "√:sqrt ∞:infty ∈:in ∉:notin ∅:emptyset ∪:cup ∩:cap ⊂:subset ⊆:subseteq ∑:sum ∏:prod ∫:int"  # noqa: RUF001
    " ∂:partial ∇:nabla ∀:forall ∃:exists →:to ↦:mapsto ⇒:rightarrow ⇔:leftrightarrow ↔:leftrightarrow"
    " ≠:neq ≈:approx ≡:equiv ≅:cong ∼:sim ±:pm ∓:mp °:degree ∘:circ △:triangle ∠:angle ∥:parallel"  # noqa: RUF001
    " ⊥:perp ⊕:oplus"
)
# A single Greek letter is a symbol; next to others it belongs to a word. The letter comes first for speed.
_GREEK = re.compile(r"[µΑ-Ωα-ωϑϕϵ](?<![Ͱ-Ͽἀ-῿].)(?![Ͱ-Ͽἀ-῿])", re.DOTALL)
_GREEK_NAMES = {"ς": "sigma", "ϑ": "theta", "ϕ": "phi", "ϵ": "epsilon", "µ": "mu"}

_STEP, _MIX = np.uint64(0x5851F42D4C957F2D), np.uint64(0xFF51AFD7ED558CCD)
_BYTE_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)  # of the first n bytes


class Words(NamedTuple):
    """The w words of several texts, in order."""

    normalized: bytes  # all texts
    starts: Indices  # [w] positions in `normalized`
    ends: Indices  # [w]
    text_of: Indices  # [w] index of the text that contains the word
    hashes: Hashes  # [w]

    def quote(self, first: int, last: int) -> str:
        """The words from `first` to before `last`, separated by blanks."""
        spans = zip(self.starts[first:last].tolist(), self.ends[first:last].tolist(), strict=True)
        return b" ".join(self.normalized[start:end] for start, end in spans).decode("utf-8", "replace")


def batches(texts: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """Yields batches of texts for `split_words`, each with the index of its first text."""
    start = size = 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= _BATCH:
            yield start, texts[start : i + 1]
            start, size = i + 1, 0
    if start < len(texts):
        yield start, texts[start:]


def split_words(texts: Sequence[str]) -> Words:
    """Splits all texts at once, with 30 bytes of memory per character; use `batches` for long lists."""
    lines = [_normalize(text) for text in texts]
    normalized = b"".join([b" ", *lines, b" " * 8])  # padded: eight bytes are read wherever a word begins
    starts, ends = _spans(normalized)
    text_of = np.searchsorted(np.cumsum([1, *map(len, lines)]), starts, side="right") - 1
    return Words(normalized, starts, ends, text_of, _hash_words(normalized, starts, ends))


def ngram_hashes(words: Words, n: int) -> tuple[Hashes, Indices]:
    """Hashes [m] of all n-grams that lie within one text, and the index [m] of each one's first word."""
    hashes = _polynomials(words.hashes, n)
    m = len(hashes)
    first = np.flatnonzero(words.text_of[:m] == words.text_of[n - 1 : n - 1 + m])
    return _mix(hashes[first]), first


def short_text_hashes(words: Words, limit: int) -> tuple[Hashes, Indices]:
    """Hashes [t] of whole texts of fewer than `limit` words, and the index [t] of each one's first word."""
    first = np.flatnonzero(np.diff(words.text_of, prepend=-1))
    counts = np.diff(first, append=len(words.text_of))
    first, counts = first[counts < limit], counts[counts < limit]
    hashes = counts.astype(np.uint64)
    for k in range(limit - 1):
        more = np.flatnonzero(counts > k)
        hashes[more] = hashes[more] * _STEP + words.hashes[first[more] + k]
    return _mix(hashes), first


def _polynomials(hashes: Hashes, n: int) -> Hashes:
    """Polynomial hashes of all n-grams, computed from those of half the length."""
    if n == 1 or len(hashes) < n:
        return hashes[: max(len(hashes) - n + 1, 0)]
    half = n // 2
    runs = _polynomials(hashes, half)
    runs = runs[:-half] * _STEP ** np.uint64(half) + runs[half:]
    return runs[:-1] * _STEP + hashes[n - 1 :] if n % 2 else runs


def _normalize(text: str) -> bytes:
    """Lower-case UTF-8 that ends in a blank; LaTeX and symbols become words, thousands separators go."""
    text = text.replace("{,}", ",")  # LaTeX for a thousands separator
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
    """The name of the letter's LaTeX command."""
    known = _GREEK_NAMES.get(letter[0])
    return f" {known or unicodedata.name(letter[0]).rpartition(' ')[2].lower()} "


class _Forms(dict[int, str]):
    """Table for `str.translate`, filled when a character first occurs."""

    def __missing__(self, code: int) -> str:
        form = self[code] = _form(chr(code))
        return form


def _form(c: str) -> str:
    """NFKC and case folding, except that 2² is not 22. Only letters, digits and signs remain."""
    if c in _SYMBOL_NAMES:
        return f" {_SYMBOL_NAMES[c]} "
    if c.isascii() or c in _OTHER_SIGNS:
        return _OTHER_SIGNS.get(c, c)
    if unicodedata.category(c) == "Cf":  # soft hyphens and other invisible characters
        return ""
    form = "".join(map(_kept, unicodedata.normalize("NFKC", c).casefold()))
    kind = unicodedata.decomposition(c).partition(" ")[0]
    if kind == "<super>":
        return "^" + form
    if kind == "<fraction>" or "\u3040" <= c <= "\u30ff" or "\u3400" <= c <= "\u9fff":
        return f" {form} "  # 1½ is not 11/2; Han and kana have no blanks between words
    return form


def _kept(c: str) -> str:
    c = _OTHER_SIGNS.get(c, c)
    return c if c.isalnum() or c in _SIGNS or unicodedata.category(c).startswith("M") else " "


_FORMS = _Forms()


def _spans(normalized: bytes) -> tuple[Indices, Indices]:
    """Start and end of each word: where the character class changes, and around every sign.

    A hyphen between words of two letters or more is not a sign; x-y is a difference.
    """
    characters = np.frombuffer(normalized, np.uint8)
    classes = np.frombuffer(normalized.translate(_CLASSES), np.uint8).copy()
    at = np.flatnonzero(characters == _DOT)  # 3.5
    classes[at[(classes[at - 1] == _DIGIT) & (classes[at + 1] == _DIGIT)]] = _DIGIT
    at = np.flatnonzero(characters == _HYPHEN)  # twenty-one
    for side in (-2, -1, 1, 2):
        at = at[classes[at + side] == _LETTER]
    classes[at] = _OTHER
    cuts = (classes[1:] != classes[:-1]) | (classes[1:] == _SIGN)
    edges = np.flatnonzero(cuts) + 1
    real = classes[edges] != _OTHER  # other edges start blanks; a text ends in blanks
    return edges[real], np.append(edges[1:], len(normalized))[real]


def _hash_words(normalized: bytes, starts: Indices, ends: Indices) -> Hashes:
    """Hashes all words, eight bytes per step."""
    eights = np.ndarray(len(normalized) - 7, "<u8", normalized, strides=(1,))
    lengths = ends - starts
    hashes = lengths.astype(np.uint64)
    longer = np.arange(len(starts))
    for done in range(0, WORD_LIMIT, 8):
        longer = longer[lengths[longer] > done]
        if not len(longer):
            break
        part = eights[starts[longer] + done] & _BYTE_MASKS[np.minimum(lengths[longer] - done, 8)]
        hashes[longer] = _mix(hashes[longer] * _STEP + part)
    return hashes


def _mix(hashes: Hashes) -> Hashes:
    """Makes every bit depend on all others; the low bits of a product do not."""
    hashes = hashes ^ (hashes >> np.uint64(32))
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(29)
    return hashes
