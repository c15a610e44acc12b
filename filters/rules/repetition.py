"""Filter of repetition: text of a model that is stuck in a loop or says little in many words.

Legitimate repetition passes: tables of sums, boards drawn again after each move, enumerations, long division,
a check that is written twice.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from annotated_types import Interval

from filters.result import FilterResult, failed, passed
from pipeline.rows import Trace

if TYPE_CHECKING:
    import numpy as np

# Each Han character, kana and Thai letter counts as a word, as these scripts do not separate words.
_UNPARTED = r"\u0e00-\u0eff\u3000-\u303f\u3040-\u30ff\u3400-\u9fff\uff00-\uffef"
_WORD = re.compile(rf"[^\s{_UNPARTED}]{{1,64}}|[{_UNPARTED}]")
_LETTER = re.compile(r"[^\W\d_]")
# Rows of boards and tables are short and contain at most one such word, as in "Row 3: 5 _ 7".
_ROW_WORD = re.compile(rf"[{_UNPARTED}]{{2}}|[^\W\d_]{{2,}}")
MAX_ROW = 200  # characters
# Words of a compared n-gram, a power of two: more than most lines of an enumeration, with their numbers.
RUN = 16
SYMBOL_LOOP_FACTOR = 10  # how much longer a loop without letters may be: boards are full of zeros
# A stutter repeats at most 8 characters, as in "!!!!!" or "0.333333", and is one word to a word count.
_STUTTER = re.compile(r"(.{1,8}?)\1{22,}+", re.DOTALL)
MIN_STUTTER, STEP = 300, 100  # characters: the shortest stutter, and the distance of positions tried
MIN_DIGIT_STUTTER = 1000  # characters, if it contains digits: decimals and powers are written out
WINDOW = 16_384  # bytes compressed at once; less than zlib's own window
MIN_SHARE_WORDS = 400  # of a text, for its share of repeated n-grams to be meaningful
MIN_COMPRESSED_BYTES = 2_000  # of a text, for its compression to be meaningful
EVIDENCE_WORDS = 40


class Loop(NamedTuple):
    words: int  # of the whole repeating stretch; 0 if there is none
    period: int  # words of one round
    end: int  # index after its last word


class Repeats(NamedTuple):
    share: float  # of the n-grams of RUN words, those that occurred before
    longest: Loop
    last: Loop  # the loop in which the text ends


_NO_LOOP = Loop(0, 0, 0)
_NO_REPEATS = Repeats(0.0, _NO_LOOP, _NO_LOOP)


def no_repetition(
    trace: Trace,
    *,
    max_loop: Annotated[int, Interval(ge=2)] = 10,
    min_loop_words: Annotated[int, Interval(ge=2 * RUN)] = 150,
    min_last_words: Annotated[int, Interval(ge=2 * RUN)] = 75,
    max_share: Annotated[float, Interval(ge=0, le=1)] = 0.4,
    max_compression: Annotated[float, Interval(ge=1)] = 15.0,
) -> FilterResult:
    """Neither reasoning nor response loops, repeats a large share of its text or compresses too well.

    A loop is a stretch repeated more than `max_loop` times that has `min_loop_words` words in all, or
    `min_last_words` at the end of the text; or up to 8 characters repeated over 300 characters, or 1,000 with
    digits among them. `max_share` is the share of 16-grams of words that occurred before, the n-gram rule of
    Gopher (Rae et al. 2021, arXiv 2112.11446, table A1); its bounds for web pages, 0.10 to 0.15 for 10- to
    5-grams, are too strict for reasoning. `max_compression` limits the zlib ratio of any window, as Whisper
    detects failed transcripts (Radford et al. 2022, arXiv 2212.04356: 2.4 for half a minute of speech); it
    finds loops that count their rounds. For the last two, rows of boards and tables are ignored.
    """
    for text in (trace.reasoning or "", trace.response):
        if stutter := find_stutter(text):
            return failed("loop", f"{len(stutter)} characters: {stutter}")
        words = _words(text)
        enough = len(words) >= min(min_last_words, min_loop_words)
        repeats = find_repeats(words) if enough else _NO_REPEATS
        for loop, min_words in ((repeats.longest, min_loop_words), (repeats.last, min_last_words)):
            factor = 1 if _LETTER.search(_round(words, loop)) else SYMBOL_LOOP_FACTOR
            if loop.words > max_loop * loop.period and loop.words >= min_words * factor:
                return failed("loop", f"{loop.words // loop.period} times: {_round(words, loop)}")
        found = _low_content(text, words, repeats, max_share, max_compression)
        if found and (rest := _without_rows(text)) is not None:
            words = _words(rest)
            repeats = find_repeats(words)
            mostly_rows = 2 * len(rest) < len(text)
            found = None if mostly_rows else _low_content(rest, words, repeats, max_share, max_compression)
        if found:
            return found
    return passed()


def find_stutter(text: str) -> str:
    """The first long stretch of a few repeated characters; "" if there is none.

    Linear in the text: from each position of a grid the pattern reads a bounded part, or a stretch that the
    search then skips.
    """
    at = 0
    while match := _first_match(text, at):
        start, at = match.span()
        period = match.end(1) - start
        while start and text[start - 1] == text[start - 1 + period]:  # extend to before the grid position
            start -= 1
        if at - start >= (MIN_DIGIT_STUTTER if any(map(str.isdigit, match[1])) else MIN_STUTTER):
            return text[start:at]
    return ""


def _first_match(text: str, at: int) -> re.Match[str] | None:
    places = range(-(-at // STEP) * STEP, len(text) - MIN_STUTTER + STEP + 1, STEP)
    return next(filter(None, (_STUTTER.match(text, place) for place in places)), None)


def _words(text: str) -> list[str]:
    return text.split() if text.isascii() else _WORD.findall(text)


def _round(words: list[str], loop: Loop) -> str:
    """The last round of a loop, or its last words if the round is long."""
    return " ".join(words[loop.end - min(loop.period, EVIDENCE_WORDS) : loop.end])


def _low_content(
    text: str, words: list[str], repeats: Repeats, max_share: float, max_compression: float
) -> FilterResult | None:
    if len(words) >= MIN_SHARE_WORDS and repeats.share > max_share:
        return failed("repeats", f"{repeats.share:.0%}: {_round(words, repeats.longest)}")
    ratio, where = compression(text)
    if ratio > max_compression:
        return failed("compressible", f"{ratio:.1f} times: {text[where : where + 400]}")
    return None


def _without_rows(text: str) -> str | None:
    """The text without rows of boards and tables; None if it has none."""
    lines = text.split("\n")
    kept = [line for line in lines if len(line) > MAX_ROW or len(_ROW_WORD.findall(line)) > 1]
    return "\n".join(kept) if len(kept) < len(lines) else None


def find_repeats(words: list[str]) -> Repeats:
    """Finds the longest loop, the loop at the end, and the share of repeated n-grams.

    In a loop of period p every n-gram of RUN words last occurred p words before, so a loop is a stretch of
    equal distances.
    """
    import numpy as np

    if len(words) <= RUN:
        return _NO_REPEATS
    back = _distances(_hashes(words))
    if not back.any():
        return _NO_REPEATS
    ends = np.flatnonzero(np.diff(back, append=-1))  # of each stretch of equal distances
    lengths = np.diff(ends, prepend=-1)
    periods = back[ends]

    def loop(at: int) -> Loop:
        period = int(periods[at])
        return Loop(int(lengths[at]) + period + RUN - 1, period, int(ends[at]) + RUN) if period else _NO_LOOP

    longest = int(np.where(periods > 0, lengths + periods, 0).argmax())
    return Repeats(float(np.count_nonzero(back)) / len(back), loop(longest), loop(-1))


def _hashes(words: list[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A 64-bit hash of every n-gram of RUN words, combined from hashes of halves."""
    import numpy as np

    hashes = np.fromiter(map(hash, words), np.int64, len(words)).astype(np.uint64)
    half = 1
    while half < RUN:
        hashes ^= hashes >> np.uint64(31)
        hashes = hashes[:-half] * np.uint64(0x9E3779B97F4A7C15) + hashes[half:]
        half *= 2
    return hashes


def _distances(hashes: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Distance to the previous occurrence of each value; 0 if it is new."""
    import numpy as np

    order = np.argsort(hashes, kind="stable")
    again = hashes[order[1:]] == hashes[order[:-1]]
    back = np.zeros(len(hashes), np.int64)
    back[order[1:][again]] = (order[1:] - order[:-1])[again]
    return back


def compression(text: str) -> tuple[float, int]:
    """The zlib ratio of the text's most compressible window, and the approximate position of that window."""
    data = text.encode("utf-8", "replace")
    if len(data) < MIN_COMPRESSED_BYTES:
        return 1.0, 0
    count = -(-len(data) // WINDOW)
    size = -(-len(data) // count)  # equal windows: a short last one would compress less
    windows = [data[at : at + size] for at in range(0, len(data), size)]
    ratios = [len(window) / len(zlib.compress(window, 1)) for window in windows]
    at = ratios.index(max(ratios))
    return ratios[at], at * size * len(text) // len(data)
