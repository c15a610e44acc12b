"""How hard a problem is for the teacher: the share of its samples that are right, and the band to keep.

A problem that is always answered teaches little, and one that never is may have a wrong reference. Recipes
keep pass rates of 0.1 to 0.9; OpenMathReasoning (Moshkov et al. 2025) calls a problem hard up to 0.3.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from filters.result import FilterResult, failed, passed, undecided
from pipeline.rows import Trace

Rate = Annotated[float, Field(ge=0, le=1)]


def difficulty(
    traces: Sequence[Trace],
    *,
    low: Rate = 0.1,
    high: Rate = 0.9,
    judged: Annotated[int, Field(ge=1)] = 2,
    rule: str = "correct",
) -> list[FilterResult]:
    """The same finding for every sample of one problem: does its pass rate lie in [low, high]?

    The rate is that of the verdicts of `rule` that say right or wrong; with fewer than `judged` of them
    nobody can tell. Those that could not are left out and counted in the evidence.
    """
    counts = Counter(
        verdict.outcome for trace in traces for verdict in trace.verdicts if verdict.filter == rule
    )
    right, known = counts["passed"], counts["passed"] + counts["failed"]
    said = f"{right}/{known} right, {len(traces) - known} unknown"
    if known < judged:
        finding = undecided("few_judged", said)
    elif right / known < low:
        finding = failed("too_hard", said)
    elif right / known > high:
        finding = failed("too_easy", said)
    else:
        finding = passed(said)
    return [finding] * len(traces)
