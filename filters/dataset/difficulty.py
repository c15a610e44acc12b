"""Filter by difficulty: the pass rate of a problem's samples must lie within a band.

A problem that is always solved teaches little, and one that never is may have a wrong reference. Recipes keep
pass rates of 0.1 to 0.9; OpenMathReasoning (Moshkov et al. 2025) calls a problem hard up to 0.3.
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
    graded: Annotated[int, Field(ge=1)] = 2,
    rule: str = "correct",
) -> list[FilterResult]:
    """Gives all samples of one problem the same result: whether their pass rate lies in [low, high].

    The rate counts verdicts of `rule` that passed or failed; with fewer than `graded` of them the problem is
    undecided. The evidence also counts undecided samples.
    """
    counts = Counter(v.outcome for trace in traces for v in trace.verdicts if v.filter == rule)
    correct, decided = counts["passed"], counts["passed"] + counts["failed"]
    evidence = f"{correct}/{decided} correct, {len(traces) - decided} undecided"
    if decided < graded:
        result = undecided("few_graded", evidence)
    elif correct / decided < low:
        result = failed("too_hard", evidence)
    elif correct / decided > high:
        result = failed("too_easy", evidence)
    else:
        result = passed(evidence)
    return [result] * len(traces)
