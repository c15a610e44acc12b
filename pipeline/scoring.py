"""From judged traces to the table: pass@1 with its interval, differences with theirs. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.rows import Row, Score, Trace

RESAMPLES = 10_000
FORM = ("one_thought", "final_answer")  # a trace that fails one of these and was not cut off is malformed


class Estimate(NamedTuple):
    """A mean over problems with its 95 % interval."""

    mean: float
    low: float
    high: float


class Summary(Row):
    """One line of the evaluation's table. Shares are of all samples."""

    subject: str
    model: str
    prompt: str
    problems: int
    samples: int
    pass_at_1: tuple[float, ...]  # mean, low, high
    truncated: float
    malformed: float
    unknown: float
    failed: float
    tokens: float  # completion tokens an answer, mean


def score(subject: str, model: str, traces: Sequence[Trace]) -> Score:
    """The score of one problem from all of its judged traces."""
    failing = [{v.filter for v in t.verdicts if v.outcome == "fail"} for t in traces]
    correct = [next((v.outcome for v in t.verdicts if v.filter == "correct"), "unknown") for t in traces]
    first = traces[0]
    return Score(
        id=f"{subject}/{first.problem_id}",
        subject=subject,
        model=model,
        prompt=first.prompt,
        problem_id=first.problem_id,
        source=first.source,
        samples=len(traces),
        correct=correct.count("pass"),
        unknown=correct.count("unknown"),
        truncated=sum(t.finish_reason == "length" for t in traces),
        malformed=sum(
            t.finish_reason not in ("length", "failed") and bool(f & set(FORM))
            for t, f in zip(traces, failing, strict=True)
        ),
        failed=sum(t.finish_reason == "failed" for t in traces),
        completion_tokens=sum(t.completion_tokens or 0 for t in traces),
    )


def bootstrap(values: Sequence[float], seed: int = 0) -> Estimate:
    """Mean of one value a problem, with the 95 % percentile interval of RESAMPLES resamples over problems.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13. Problems are resampled,
    not samples: answers to one problem are not independent.
    """
    x = np.asarray(values, dtype=float)
    rng = np.random.default_rng(seed)
    block = max(1, 1_000_000 // len(x))  # resamples drawn at once, to bound memory
    means = [
        x[rng.integers(len(x), size=(min(block, RESAMPLES - done), len(x)))].mean(axis=1)
        for done in range(0, RESAMPLES, block)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(float(x.mean()), float(low), float(high))


def summarise(scores: Iterable[Score]) -> list[Summary]:
    """One line a subject, in the order in which they come."""
    by_subject: dict[str, list[Score]] = {}
    for s in scores:
        by_subject.setdefault(s.subject, []).append(s)
    return [_summary(rows) for rows in by_subject.values()]


def difference(of: Sequence[Score], to: Sequence[Score]) -> Estimate:
    """pass@1 of one subject less that of another, paired: problem by problem, over the problems of both."""
    other = {s.problem_id: s.correct / s.samples for s in to}
    return bootstrap([s.correct / s.samples - other[s.problem_id] for s in of if s.problem_id in other])


def _summary(rows: list[Score]) -> Summary:
    samples = sum(s.samples for s in rows)

    def share(field: str) -> float:
        return sum(getattr(s, field) for s in rows) / samples

    return Summary(
        subject=rows[0].subject,
        model=rows[0].model,
        prompt=rows[0].prompt,
        problems=len(rows),
        samples=samples,
        pass_at_1=tuple(bootstrap([s.correct / s.samples for s in rows])),
        truncated=share("truncated"),
        malformed=share("malformed"),
        unknown=share("unknown"),
        failed=share("failed"),
        tokens=share("completion_tokens"),
    )
