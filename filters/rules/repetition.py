"""Filter of repetition: a model that got stuck, or says the same again and again.

Made to spare what repeats for good reason: tables of sums, boards that are drawn again after each move,
enumerations, long division, a check that is said twice.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from annotated_types import Interval

from filters.result import FilterResult, failed, passed

if TYPE_CHECKING:
    import numpy as np

    from pipeline.rows import Trace

# Each Han character, kana and Thai letter is a word of its own: those writings do not part words.
_UNPARTED = r"\u0e00-\u0eff\u3000-\u303f\u3040-\u30ff\u3400-\u9fff\uff00-\uffef"
_WORD = re.compile(rf"[^\s{_UNPARTED}]{{1,64}}|[{_UNPARTED}]")
_LETTER = re.compile(r"[^\W\d_]")
# Rows of boards and tables are short and have one such word at most, as in "Row 3: 5 _ 7".
_SAYS = re.compile(rf"[{_UNPARTED}]{{2}}|[^\W\d_]{{2,}}")
ROW = 200  # characters
# Words in a row that are compared, a power of two: more than most lines of an enumeration, counter included.
RUN = 16
FIGURES = 10  # times as long as a loop of words may a loop of figures and marks be: boards are full of zeros
# A stutter is "!!!!!" or "0.333333", one word to whatever counts words: at most 8 characters again and again.
_STUTTER = re.compile(r"(.{1,8}?)\1{22,}+", re.DOTALL)
STUTTER, STEP = 300, 100  # characters of a whole one, and from one place where it is looked for to the next
DIGITS = 1000  # characters of a whole one that has digits in it: people do write out decimals and powers
WINDOW = 16_384  # bytes that are compressed at once; less than zlib looks back
LEAST_WORDS = 400  # of a text that the share of what it repeats says something of
LEAST_BYTES = 2_000  # of a text that its compression says something of
EVIDENCE_WORDS = 40


class Loop(NamedTuple):
    words: int  # of the whole stretch that follows upon itself; 0 where there is none
    period: int  # words after which it does
    end: int  # word at which it ends


class Repeats(NamedTuple):
    share: float  # of the runs of RUN words, those that came before
    longest: Loop
    last: Loop  # the one that the text ends in


_NONE = Loop(0, 0, 0)
_NOTHING = Repeats(0.0, _NONE, _NONE)


def no_repetition(
    trace: Trace,
    *,
    max_loop: Annotated[int, Interval(ge=2)] = 10,
    min_loop_words: Annotated[int, Interval(ge=2 * RUN)] = 150,
    min_last_words: Annotated[int, Interval(ge=2 * RUN)] = 75,
    max_share: Annotated[float, Interval(ge=0, le=1)] = 0.4,
    max_compression: Annotated[float, Interval(ge=1)] = 15.0,
) -> FilterResult:
    """Neither thought nor response loops, repeats too much of itself, or says next to nothing in many words.

    A loop is a stretch that follows upon itself more than `max_loop` times and is `min_loop_words` long in
    all, or `min_last_words` where the text ends in it; or a few characters that do for 300 characters, 1,000
    where digits are among them. `max_share` is the share of runs of 16 words that were there before: the
    n-gram rule of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1), whose bounds for web pages, 0.10 to
    0.15 of 10 to 5 words, are too strict for reasoning. `max_compression` is the most that zlib may shrink a
    window of the text, as Whisper tells failed transcripts (Radford et al. 2022, arXiv 2212.04356: 2.4, for
    half a minute of speech); it sees the loop that counts its rounds. For the last two, rows of boards and
    tables do not count.
    """
    for text in (trace.reasoning or "", trace.response):
        if stutter := find_stutter(text):
            return failed("loop", f"{len(stutter)} characters: {stutter}")
        words = _words(text)
        enough = len(words) >= min(min_last_words, min_loop_words)
        repeats = find_repeats(words) if enough else _NOTHING
        for loop, least in ((repeats.longest, min_loop_words), (repeats.last, min_last_words)):
            if loop.words > max_loop * loop.period and loop.words >= least * _patience(words, loop):
                return failed("loop", f"{loop.words // loop.period} times: {_round(words, loop)}")
        found = _little_said(text, words, repeats, max_share, max_compression)
        if found and (rest := _without_rows(text)) is not text:
            found = _of_the_rest(rest, text, max_share, max_compression)
        if found:
            return found
    return passed()


def find_stutter(text: str) -> str:
    """The first stretch of a few characters that follow upon themselves for long; "" where there is none.

    Linear: from each place of its grid the pattern reads a bounded part, or a stretch that is then passed by.
    """
    at = 0
    while match := _first_match(text, at):
        start, at = match.span()
        unit = match.end(1) - start
        while start and text[start - 1] == text[start - 1 + unit]:  # back to before the grid's place
            start -= 1
        if at - start >= (DIGITS if any(map(str.isdigit, match[1])) else STUTTER):
            return text[start:at]
    return ""


def _first_match(text: str, at: int) -> re.Match[str] | None:
    places = range(-(-at // STEP) * STEP, len(text) - STUTTER + STEP + 1, STEP)
    return next(filter(None, (_STUTTER.match(text, place) for place in places)), None)


def _words(text: str) -> list[str]:
    return text.split() if text.isascii() else _WORD.findall(text)


def _round(words: list[str], loop: Loop) -> str:
    """The last round of a loop, or its last words."""
    return " ".join(words[loop.end - min(loop.period, EVIDENCE_WORDS) : loop.end])


def _patience(words: list[str], loop: Loop) -> int:
    """How many times the usual length a loop may have."""
    return 1 if _LETTER.search(_round(words, loop)) else FIGURES


def _little_said(
    text: str, words: list[str], repeats: Repeats, max_share: float, max_compression: float
) -> FilterResult | None:
    if len(words) >= LEAST_WORDS and repeats.share > max_share:
        return failed("repeats", f"{repeats.share:.0%}: {_round(words, repeats.longest)}")
    shrinks, where = compression(text)
    if shrinks > max_compression:
        return failed("compressible", f"{shrinks:.1f} times: {text[where : where + 400]}")
    return None


def _without_rows(text: str) -> str:
    """The text without the rows of boards and tables; the text itself where it has none."""
    lines = text.split("\n")
    saying = [line for line in lines if len(line) > ROW or len(_SAYS.findall(line)) > 1]
    return "\n".join(saying) if len(saying) < len(lines) else text


def _of_the_rest(rest: str, text: str, max_share: float, max_compression: float) -> FilterResult | None:
    """The same of a text whose rows were left out, unless it was rows for the most part."""
    if 2 * len(rest) < len(text):
        return None
    words = _words(rest)
    return _little_said(rest, words, find_repeats(words), max_share, max_compression)


def find_repeats(words: list[str]) -> Repeats:
    """The longest loop, the one at the end, and the share of what was said before.

    In a loop of period p each run of words comes p words after itself: as many of them in a row as the loop
    is longer than one round.
    """
    import numpy as np

    if len(words) <= RUN:
        return _NOTHING
    back = _distances(_hashes(words))
    if not back.any():
        return _NOTHING
    ends = np.flatnonzero(np.diff(back, append=-1))  # the last of each stretch of one distance
    lengths = np.diff(ends, prepend=-1)
    periods = back[ends]

    def loop(at: int) -> Loop:
        period = int(periods[at])
        return Loop(int(lengths[at]) + period + RUN - 1, period, int(ends[at]) + RUN) if period else _NONE

    longest = int(np.where(periods > 0, lengths + periods, 0).argmax())
    return Repeats(float(np.count_nonzero(back)) / len(back), loop(longest), loop(-1))


def _hashes(words: list[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """A hash of 64 bits of each run of RUN words, made by joining two halves until they are as long."""
    import numpy as np

    hashes = np.fromiter(map(hash, words), np.int64, len(words)).astype(np.uint64)
    half = 1
    while half < RUN:
        hashes ^= hashes >> np.uint64(31)
        hashes = hashes[:-half] * np.uint64(0x9E3779B97F4A7C15) + hashes[half:]
        half *= 2
    return hashes


def _distances(hashes: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """How far back each value last came; 0 where it is new."""
    import numpy as np

    order = np.argsort(hashes, kind="stable")
    again = hashes[order[1:]] == hashes[order[:-1]]
    back = np.zeros(len(hashes), np.int64)
    back[order[1:][again]] = (order[1:] - order[:-1])[again]
    return back


def compression(text: str) -> tuple[float, int]:
    """How many times smaller zlib makes the text's most repetitive window, and about where that begins."""
    data = text.encode("utf-8", "replace")
    if len(data) < LEAST_BYTES:
        return 1.0, 0
    count = -(-len(data) // WINDOW)
    size = -(-len(data) // count)  # windows of one size: a short last one would shrink less
    windows = [data[at : at + size] for at in range(0, len(data), size)]
    ratios = [len(window) / len(zlib.compress(window, 1)) for window in windows]
    at = ratios.index(max(ratios))
    return ratios[at], at * size * len(text) // len(data)
