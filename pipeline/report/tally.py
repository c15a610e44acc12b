"""Counts over all traces as they stream by: outcomes, lengths, pass rates, contamination hits.

Arrow reads the few columns that are needed, a batch at a time, so memory does not grow with the traces.
Problems are counted on the way: the traces of a problem lie side by side.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.filter.funnel import BATCH, batches

Ints = NDArray[np.int64]

LONGEST = 1 << 20  # tokens; a longer trace counts as one of so many
BANDS = ("0 %", "1-19 %", "20-39 %", "40-59 %", "60-79 %", "80-99 %", "100 %")  # of a problem's pass rate
RIGHT, WRONG, UNJUDGED = "right", "wrong", "not judged"
HITS = 100  # contaminated traces that are shown
_COLUMNS = (
    "problem_id",
    "source",
    "outcome",
    "completion_tokens",
    "verdicts.list.element.filter",
    "verdicts.list.element.outcome",
)


@dataclass
class Tally:
    """What was counted. in = sum(outcomes) = sum(lengths) + uncounted."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (source, outcome) -> traces
    lengths: dict[str, Ints] = field(default_factory=dict)  # right, wrong, not judged -> traces by tokens
    uncounted: int = 0  # traces whose server sent no count of tokens
    problems: Counter[str] = field(default_factory=Counter)  # band of pass rate -> problems
    banded: Counter[tuple[str, str]] = field(default_factory=Counter)  # (band, outcome) -> traces
    unrated: int = 0  # problems without any trace that was judged right or wrong

    @property
    def traces(self) -> int:
        return self.outcomes.total()


class Hit(NamedTuple):
    """A trace that shares words with an evaluation set."""

    trace: str
    source: str
    reason: str
    evidence: str


class _Problem(NamedTuple):
    id: str
    right: int
    wrong: int
    outcomes: dict[str, int]


def tally(paths: Sequence[Path]) -> Tally:
    """Count the traces of these Parquet files."""
    counted = Tally()
    last: _Problem | None = None
    for batch in batches(paths, _COLUMNS, BATCH):
        correct = _correct(batch.column("verdicts"))
        _count_lengths(counted, batch.column("completion_tokens"), correct)
        pairs = zip(batch.column("source").to_pylist(), batch.column("outcome").to_pylist(), strict=True)
        counted.outcomes.update(pairs)
        for problem in _problems(batch, correct):
            if last is not None and last.id == problem.id:
                problem = _joined(last, problem)
            elif last is not None:
                _count_problem(counted, last)
            last = problem
    if last is not None:
        _count_problem(counted, last)
    return counted


def hits(paths: Sequence[Path], rule: str = "contamination") -> tuple[int, list[Hit]]:
    """How many traces this rule fails, and the first HITS of them with what they share."""
    import pyarrow.compute as pc

    found: list[Hit] = []
    count = 0
    for batch in batches(paths, ("id", "source", "verdicts"), BATCH):
        flat = batch.column("verdicts").flatten()
        failing = pc.and_(pc.equal(flat.field("filter"), rule), pc.equal(flat.field("outcome"), "failed"))
        count += pc.sum(failing).as_py() or 0
        if len(found) < HITS:
            of = pc.list_parent_indices(batch.column("verdicts")).filter(failing)
            rows = batch.select(["id", "source"]).take(of).to_pylist()
            said = flat.filter(failing).to_pylist()
            found += [
                Hit(row["id"], row["source"], v["reason"], v["evidence"] or "")
                for row, v in zip(rows, said, strict=True)
            ]
    return count, found[:HITS]


def bins(lengths: dict[str, Ints], most: int = 40) -> list[dict[str, Any]]:
    """Rows {begin, end, what, traces} of a histogram over tokens with `most` bins of a round width."""
    longest = max((int(np.flatnonzero(counts)[-1]) for counts in lengths.values() if counts.any()), default=0)
    width = _round_up((longest + 1) / most)
    rows = []
    for what, counts in lengths.items():
        for i, total in enumerate(np.add.reduceat(counts, range(0, longest + 1, width)).tolist()):
            rows.append({"begin": i * width, "end": (i + 1) * width, "what": what, "traces": total})
    return rows


def quantiles(counts: Ints) -> tuple[int, int, int]:
    """Tokens of the trace at 5, 50 and 95 % of a count by tokens that is not empty."""
    below = np.cumsum(counts)
    low, middle, high = (int(np.searchsorted(below, share * below[-1])) for share in (0.05, 0.5, 0.95))
    return low, middle, high


def _correct(verdicts: Any) -> Ints:
    """For each trace what the rule `correct` says: 1 right, -1 wrong, 0 neither."""
    import pyarrow.compute as pc

    flat = verdicts.flatten()
    of = pc.list_parent_indices(verdicts).to_numpy(zero_copy_only=False)
    said = np.zeros(len(verdicts), dtype=np.int64)
    named = pc.equal(flat.field("filter"), "correct").to_numpy(zero_copy_only=False)
    for outcome, value in (("passed", 1), ("failed", -1)):
        mask = pc.equal(flat.field("outcome"), outcome).to_numpy(zero_copy_only=False)
        said[of[named & mask]] = value
    return said


def _count_lengths(counted: Tally, tokens: Any, correct: Ints) -> None:
    import pyarrow.compute as pc

    known = pc.is_valid(tokens).to_numpy(zero_copy_only=False)
    counted.uncounted += int((~known).sum())
    numbers = np.clip(pc.fill_null(tokens, 0).to_numpy(zero_copy_only=False), 0, LONGEST)
    for what, value in ((RIGHT, 1), (WRONG, -1), (UNJUDGED, 0)):
        chosen = numbers[known & (correct == value)]
        if len(chosen):
            held = counted.lengths.setdefault(what, np.zeros(LONGEST + 1, dtype=np.int64))
            added = np.bincount(chosen)
            held[: len(added)] += added


def _problems(batch: Any, correct: Ints) -> Iterator[_Problem]:
    """The runs of one problem id in a batch."""
    ids = batch.column("problem_id").to_numpy(zero_copy_only=False)
    outcomes = batch.column("outcome").to_pylist()
    if not len(ids):
        return
    starts = np.concatenate([[0], np.flatnonzero(ids[1:] != ids[:-1]) + 1])
    right = np.add.reduceat(correct == 1, starts, dtype=np.int64).tolist()
    wrong = np.add.reduceat(correct == -1, starts, dtype=np.int64).tolist()
    ends = [*starts[1:].tolist(), len(ids)]
    for i, (begin, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
        yield _Problem(ids[begin], right[i], wrong[i], Counter(outcomes[begin:end]))


def _joined(a: _Problem, b: _Problem) -> _Problem:
    return _Problem(
        a.id, a.right + b.right, a.wrong + b.wrong, dict(Counter(a.outcomes) + Counter(b.outcomes))
    )


def _count_problem(counted: Tally, problem: _Problem) -> None:
    judged = problem.right + problem.wrong
    if not judged:
        counted.unrated += 1
        return
    named = band(problem.right / judged)
    counted.problems[named] += 1
    for outcome, traces in problem.outcomes.items():
        counted.banded[named, outcome] += traces


def band(rate: float) -> str:
    """The band of a pass rate: never, always, or fifths between."""
    if rate in (0, 1):
        return BANDS[-1 if rate else 0]
    return BANDS[1 + int(rate * 5)]


def _round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, ..."""
    scale = 1
    while True:
        for step in (1, 2, 5):
            if step * scale >= width:
                return step * scale
        scale *= 10
