"""Filter of repetition: a model that got stuck, or says the same again and again.

Made to spare what repeats for good reason: tables of sums, boards, enumerations, long division, a check that
is said twice.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from annotated_types import Interval

from filters.finding import Finding, fit, unfit

if TYPE_CHECKING:
    import numpy as np

    from pipeline.rows import Trace

# Each Han character, kana and Thai letter is a word of its own: those writings do not part words.
_WORD = re.compile(
    r"[^\s\u0e00-\u0eff\u3000-\u303f\u3040-\u30ff\u3400-\u9fff\uff00-\uffef]{1,64}"
    r"|[\u0e00-\u0eff\u3000-\u303f\u3040-\u30ff\u3400-\u9fff\uff00-\uffef]"
)
_LETTER = re.compile(r"[^\W\d_]")
# Words in a row that are compared, a power of two: more than most lines of an enumeration, counter included.
RUN = 16
FIGURES = 10  # times as long as a loop of words may a loop of figures and marks be: boards are full of zeros
WINDOW = 16_384  # bytes that are compressed at once; less than zlib looks back
LEAST_WORDS = 400  # of a text that the share of what it repeats says something of
LEAST_BYTES = 2_000  # of a text that its compression says something of
EVIDENCE_WORDS = 40


class Repeats(NamedTuple):
    share: float  # of the runs of RUN words, those that came before
    loop: int  # words in the longest stretch that follows upon itself
    period: int  # words after which it does; 0 where there is none
    end: int  # word at which it ends


def no_repetition(
    trace: Trace,
    *,
    max_loop: Annotated[int, Interval(ge=2)] = 10,
    min_loop_words: Annotated[int, Interval(ge=2 * RUN)] = 150,
    max_share: Annotated[float, Interval(ge=0, le=1)] = 0.4,
    max_compression: Annotated[float, Interval(ge=1)] = 15.0,
) -> Finding:
    """Neither thought nor response loops, repeats too much of itself, or says next to nothing in many words.

    A loop is a stretch that follows upon itself more than `max_loop` times and is `min_loop_words` long in
    all. `max_share` is the share of runs of 16 words that were there before: the n-gram rule of Gopher (Rae
    et al. 2021, arXiv 2112.11446, table A1), whose bounds for web pages, 0.10 to 0.15 of 10 to 5 words, are
    too strict for reasoning. `max_compression` is the most that zlib may shrink a window of the text, as
    Whisper tells failed transcripts (Radford et al. 2022, arXiv 2212.04356: 2.4, for half a minute of
    speech); it sees the loop that counts its rounds.
    """
    for text in (trace.reasoning or "", trace.response):
        words = text.split() if text.isascii() else _WORD.findall(text)
        if len(words) >= min_loop_words:
            repeats = find_repeats(words)
            again = " ".join(words[repeats.end - min(repeats.period, EVIDENCE_WORDS) : repeats.end])
            least = min_loop_words if _LETTER.search(again) else FIGURES * min_loop_words
            if repeats.loop >= least and repeats.loop > max_loop * repeats.period:
                return unfit("loop", f"{repeats.loop // repeats.period} times: {again}")
            if len(words) >= LEAST_WORDS and repeats.share > max_share:
                return unfit("repeats", f"{repeats.share:.0%}: {again}")
        shrinks, where = compression(text)
        if shrinks > max_compression:
            return unfit("compressible", f"{shrinks:.1f} times: {text[where : where + 400]}")
    return fit()


def find_repeats(words: list[str]) -> Repeats:
    """The longest loop, and the share of what was said before.

    In a loop of period p each run of words comes p words after itself: as many of them in a row as the loop
    is longer than one round.
    """
    import numpy as np

    if len(words) <= RUN:
        return Repeats(0.0, 0, 0, 0)
    back = _distances(_hashes(words))
    if not back.any():
        return Repeats(0.0, 0, 0, 0)
    ends = np.flatnonzero(np.diff(back, append=-1))  # the last of each stretch of one distance
    lengths = np.diff(ends, prepend=-1)
    loops = np.where(back[ends] > 0, lengths + back[ends], 0)
    at = int(loops.argmax())
    period = int(back[ends[at]])
    share = float(np.count_nonzero(back)) / len(back)
    loop = int(lengths[at]) + period + RUN - 1 if period else 0
    return Repeats(share, loop, period, int(ends[at]) + RUN)


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
