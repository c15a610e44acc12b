"""Which kept traces of a problem to teach, in the order of `select.prefer`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from filters.dataset.minhash import Hashes32, jaccard, text_shingles
from filters.rules.length import token_counts
from pipeline.config.select import PassRates, Select
from pipeline.errors import UserError
from pipeline.rows import Trace, TraceScore
from pipeline.select.chat_format import confidence, response_only, untaught
from pipeline.select.lengths import LengthMix
from pipeline.select.marks import Mark

Scores = Mapping[str, TraceScore]  # by the trace's id
NEED_SCORES = ("natural", "ratio")


def choose(
    kept: Sequence[Trace],
    select: Select,
    counts: dict[str, int],
    scores: Scores | None = None,
    mix: LengthMix | None = None,
    marks: Mapping[str, Mark] = MappingProxyType({}),
) -> Iterator[Trace]:
    """Yields the preferred distinct traces of a problem, without what is not taught; counts the others."""
    seen: set[tuple[str | None, str]] = set()
    alike = NearIdentical(select.diverse)
    with_reasoning = {trace.id for trace in kept if (trace.reasoning or "").strip()}
    taught = kept if select.reasoning == "tags" else [response_only(trace) for trace in kept]
    preferred = sorted(taught, key=lambda trace: _sort_key(trace, select.prefer, scores or {}))
    if select.marks and select.marks.use == "prefer":
        preferred.sort(key=lambda trace: marks.get(trace.id) != "keep")
    for trace in preferred:
        text = (trace.reasoning, trace.response)
        if not _wanted(marks.get(trace.id), select):
            counts["marks"] += 1
        elif why := untaught(trace, select.reasoning):
            counts[why] += 1
        elif text in seen:
            counts["same_text"] += 1
        elif len(seen) == select.per_problem:
            counts["over_per_problem"] += 1
        elif alike.to_an_earlier(trace):
            counts["near_identical"] += 1
        else:
            seen.add(text)
            if mix is not None and not mix.keeps(trace):
                counts["over_share"] += 1
                continue
            counts["reasoning_not_taught"] += trace.id in with_reasoning and trace.reasoning is None
            yield trace


class NearIdentical:
    """Compares what is taught of a problem's traces with the traces that are chosen already."""

    def __init__(self, threshold: float | None) -> None:
        self._threshold = threshold
        self._chosen: list[Hashes32] = []

    def to_an_earlier(self, trace: Trace) -> bool:
        """Whether a chosen trace is as similar as the threshold; if none is, this trace counts as chosen."""
        if self._threshold is None:
            return False
        (shingles,) = text_shingles([trace.reasoning or trace.response])
        if any(jaccard(shingles, other) >= self._threshold for other in self._chosen):
            return True
        self._chosen.append(shingles)
        return False


def solves_as_wanted(kept: Sequence[Trace], bounds: PassRates, scores: Scores) -> bool:
    """Whether the student's pass rate for the problem of these traces is within bounds, or unknown."""
    rates = (scores[trace.id].student_pass_rate for trace in kept if trace.id in scores)
    known = next((rate for rate in rates if rate is not None), None)
    return known is None or bounds.min <= known <= bounds.max


def _wanted(mark: Mark | None, select: Select) -> bool:
    """Whether select.marks lets a trace with this mark be an example."""
    only = select.marks is not None and select.marks.use == "only"
    return mark == "keep" if only else select.marks is None or mark != "drop"


def _sort_key(trace: Trace, prefer: str, scores: Scores) -> float:
    """Lower is preferred; ties keep their order. A trace that was too long to score comes last."""
    if prefer in NEED_SCORES:
        return _score_key(scores.get(trace.id), prefer)
    if prefer == "short":
        return sum(token_counts(trace))
    if prefer == "first":
        return 0
    value = confidence(trace)
    if value is None:
        raise UserError(
            f'select.prefer = "confident", but trace {trace.id} has no log-probabilities: set '
            "generate.logprobs = true"
        )
    return -value


def _score_key(score: TraceScore | None, prefer: str) -> float:
    value = None if score is None else score.ratio if prefer == "ratio" else score.naturalness
    if value is None:
        return math.inf
    return value if prefer == "ratio" else -value
