"""Counts over all traces: outcomes, lengths, pass rates of problems, contamination."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.inspect.table import RowTable
from pipeline.rows import Trace

Ints = NDArray[np.int64]

LONGEST = 1 << 20  # tokens; longer traces are counted as this long
BANDS = ("0 %", "1-19 %", "20-39 %", "40-59 %", "60-79 %", "80-99 %", "100 %")  # of a problem's pass rate
GRADES = {"passed": "correct", "failed": "incorrect", "undecided": "undecided", None: "not graded"}
HITS = 100  # contaminated traces that are shown

_OUTCOMES = "select source, outcome, count(*) from rows group by all order by all"
_GRADED = """
with graded as (
    select
        problem_id,
        outcome,
        case when completion_tokens > $longest then $longest else completion_tokens end as tokens,
        list_filter(verdicts, lambda v: v.filter = 'correct')[1].outcome as grade
    from rows
)
"""
_LENGTHS = f"{_GRADED} select grade, tokens, count(*) from graded group by all"
_PROBLEMS = f"""{_GRADED},
problems as (
    select
        count(*) filter (grade = 'passed') as correct,
        count(*) filter (grade in ('passed', 'failed')) as graded,
        histogram(outcome) as outcomes
    from graded
    group by problem_id
)
select correct, graded, outcomes, count(*) from problems group by all
"""
_HITS = """
with hits as (
    select id, source, verdict.reason, coalesce(verdict.evidence, '')
    from (select id, source, unnest(verdicts) as verdict from rows)
    where verdict.filter = $rule and verdict.outcome = 'failed'
)
select *, (select count(*) from hits) from hits limit $most
"""


@dataclass
class Tally:
    """The counts. traces = sum(outcomes) = sum(lengths) + uncounted."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (source, outcome) -> traces
    lengths: dict[str, Ints] = field(default_factory=dict)  # grade -> traces by tokens
    uncounted: int = 0  # traces whose server sent no token count
    problems: Counter[str] = field(default_factory=Counter)  # band of the pass rate -> problems
    banded: Counter[tuple[str, str]] = field(default_factory=Counter)  # (band, outcome) -> traces
    unrated: int = 0  # problems without a trace that was graded correct or incorrect

    @property
    def traces(self) -> int:
        return self.outcomes.total()


class Hit(NamedTuple):
    """A trace that shares words with an evaluation set."""

    trace: str
    source: str
    reason: str
    evidence: str


def tally(rows: RowTable[Trace]) -> Tally:
    """Counts the traces of a table."""
    counted = Tally()
    for source, outcome, traces in rows.query(("source", "outcome"), _OUTCOMES):
        counted.outcomes[source, outcome] = traces
    columns = ("problem_id", "outcome", "completion_tokens", "verdicts")
    lengths = rows.query(columns, _LENGTHS, longest=LONGEST)
    for grade, name in GRADES.items():
        if of_grade := [(tokens, n) for g, tokens, n in lengths if g == grade and tokens is not None]:
            tokens, numbers = np.array(of_grade).T
            counted.lengths[name] = np.bincount(tokens, numbers, LONGEST + 1).astype(np.int64)
    counted.uncounted = sum(n for _, tokens, n in lengths if tokens is None)
    for correct, graded, outcomes, problems in rows.query(columns, _PROBLEMS, longest=LONGEST):
        if not graded:
            counted.unrated += problems
            continue
        name = band(correct / graded)
        counted.problems[name] += problems
        counted.banded.update({(name, outcome): n * problems for outcome, n in outcomes.items()})
    return counted


def hits(rows: RowTable[Trace], rule: str = "contamination") -> tuple[int, list[Hit]]:
    """Returns how many traces fail this rule, and the first HITS of them with the words they share."""
    found = rows.query(("id", "source", "verdicts"), _HITS, rule=rule, most=HITS)
    return (found[0][-1] if found else 0), [Hit(*row[:-1]) for row in found]


def bins(lengths: dict[str, Ints], most: int = 40) -> list[dict[str, Any]]:
    """Returns rows {begin, end, what, traces} of a histogram over tokens: `most` bins of a round width."""
    longest = max((int(np.flatnonzero(counts)[-1]) for counts in lengths.values()), default=0)
    width = _round_up((longest + 1) / most)
    return [
        {"begin": i * width, "end": (i + 1) * width, "what": what, "traces": total}
        for what, counts in lengths.items()
        for i, total in enumerate(np.add.reduceat(counts, range(0, longest + 1, width)).tolist())
    ]


def quantiles(counts: Ints) -> tuple[int, int, int]:
    """Returns the tokens of the traces at 5, 50 and 95 %, given the number of traces by tokens."""
    below = np.cumsum(counts)
    low, median, high = (int(np.searchsorted(below, share * below[-1])) for share in (0.05, 0.5, 0.95))
    return low, median, high


def band(rate: float) -> str:
    """Returns the band of a pass rate: never, always, or one of five between."""
    if rate in (0, 1):
        return BANDS[-1 if rate else 0]
    return BANDS[1 + int(rate * 5)]


def _round_up(width: float) -> int:
    """Returns the next of 1, 2, 5, 10, 20, 50, ..."""
    scale = 1
    while 5 * scale < width:
        scale *= 10
    return next(step * scale for step in (1, 2, 5) if step * scale >= width)
