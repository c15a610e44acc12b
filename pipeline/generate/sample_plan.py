"""Which samples of a problem are wanted, and what is owed because of the ones that are there. Asks nobody.

A sample is drawn; continued where its thought was cut; judged where that decides whether more are wanted.
What is owed next depends on the rows that are there and nothing else, so a resumed run decides as one that
was never stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.engine.scheduler import Plan, WorkItem
from pipeline.engine.shard import Held, Shard
from pipeline.inference.response import Completion, can_continue
from pipeline.rows import Outcome, Problem, Trace

FAILED = "failed"  # the finish_reason of a sample that was given up
JUDGE = "judge"  # the lane of the units that judge a trace
_FIELDS = ("finish_reason", "continuations", "outcome", "error")


@dataclass(frozen=True)
class Rules:
    """How many samples a problem gets."""

    most: int  # samples of each teacher, at most
    until: int | None  # enough once so many are kept; None: always `most`
    max_continuations: int  # how often a cut thought is continued


@dataclass(frozen=True)
class SampleRequest:
    """One sample of a problem: to be drawn, or, where its row is there, to be continued or judged."""

    problem: Problem
    teacher: int  # position in the recipe
    sample: int
    row: Trace | None = None


def trace_id(problem_id: str, teacher: int, sample: int) -> str:
    return f"{problem_id}-{teacher}-{sample:04d}"


def sampling_seed(problem_id: str, sample: int, run_seed: int, continuations: int = 0) -> int:
    """A seed of 31 bits from the unit alone, so that order and concurrency change nothing."""
    text = f"{run_seed} {problem_id} {sample} {continuations}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def wanted(outcomes: Mapping[int, Outcome], rules: Rules) -> int:
    """How many samples a problem needs, given those judged so far; it only grows as more are judged.

    The fewest that hold `until` kept ones if every sample not judged yet is kept. So samples run side by side
    as far as no outcome could make one of them superfluous, and the end is the same in any order.
    """
    if rules.until is None:
        return rules.most
    kept = 0
    for sample in range(rules.most):
        kept += outcomes.get(sample, "kept") == "kept"
        if kept == rules.until:
            return sample + 1
    return rules.most


class ProblemSamples:
    """The samples of one problem by one teacher."""

    def __init__(self, problem: Problem, teacher: int, rules: Rules, finished: Callable[[int], None]) -> None:
        self.problem, self.teacher, self.rules, self.finished = problem, teacher, rules, finished
        self.outcomes: dict[int, Outcome] = {}
        self._asked = 0  # samples below this are there or owed
        self._longest = len(problem.question) / 1e6  # tokens; a long question is all that is known at first

    def ids(self) -> list[str]:
        """Of every sample that may come."""
        return [trace_id(self.problem.id, self.teacher, sample) for sample in range(self.rules.most)]

    def begin(self, held: Held) -> Iterator[WorkItem]:
        """What is owed at first, beside what `take` says of the rows in `pending`."""
        for sample, key in enumerate(self.ids()):
            row = held.rows.get(key)
            if row and not self._is_pending(row):
                self._count(sample, row["finish_reason"], row["outcome"])
        yield from (unit for unit in self._more() if unit.key not in held.rows)

    def pending(self, held: Held) -> list[str]:
        """Keys of rows that are there and need something done to them."""
        return [key for key in self.ids() if key in held.rows and self._is_pending(held.rows[key])]

    def take(self, row: Trace) -> list[WorkItem]:
        """What is owed because of a row."""
        self._longest = max(self._longest, row.completion_tokens or 0)
        if self._is_cut(row.finish_reason, row.continuations, row.error) and can_continue(completion_of(row)):
            return [self._unit(row.sample, str(self.teacher), row)]
        if self._is_unjudged(row.finish_reason, row.outcome):
            return [self._unit(row.sample, JUDGE, row)]
        self._count(row.sample, row.finish_reason, row.outcome)
        return self._more()

    def _count(self, sample: int, finish_reason: str, outcome: Outcome) -> None:
        """A sample needs nothing more. In the place of one given up none is drawn, to fail like it."""
        self.outcomes[sample] = "kept" if finish_reason == FAILED else outcome

    def _is_pending(self, row: dict[str, Any]) -> bool:
        cut = self._is_cut(row["finish_reason"], row["continuations"], row["error"])
        return cut or self._is_unjudged(row["finish_reason"], row["outcome"])

    def _is_unjudged(self, finish_reason: str, outcome: Outcome) -> bool:
        return self.rules.until is not None and outcome == "unfiltered" and finish_reason != FAILED

    def _is_cut(self, finish_reason: str, continuations: int, error: str | None) -> bool:
        return finish_reason == "length" and error is None and continuations < self.rules.max_continuations

    def _more(self) -> list[WorkItem]:
        first, self._asked = self._asked, wanted(self.outcomes, self.rules)
        if len(self.outcomes) == self._asked:
            self.finished(self._asked)
        return [self._unit(sample, str(self.teacher)) for sample in range(first, self._asked)]

    def _unit(self, sample: int, lane: str, row: Trace | None = None) -> WorkItem:
        ask = SampleRequest(self.problem, self.teacher, sample, row)
        return WorkItem(trace_id(self.problem.id, self.teacher, sample), ask, lane, self._longest)


def plan(
    problems: Sequence[tuple[Problem, Sequence[int]]],
    traces: Shard,
    rules: Rules,
    finished: Callable[[int], None],
) -> Plan:
    """What a shard owes: problems, each with the teachers that are asked, and the journal of their traces.

    `finished` is told, once for each problem and teacher, how many samples it took.
    """
    held = traces.held(_FIELDS)
    series = {(p.id, t): ProblemSamples(p, t, rules, finished) for p, teachers in problems for t in teachers}
    units = [unit for each in series.values() for unit in each.begin(held)]
    pending = {key for each in series.values() for key in each.pending(held)}

    def follow(row: Trace) -> list[WorkItem]:
        return series[row.problem_id, int(row.id.split("-")[-2])].take(row)

    if pending:
        units += [unit for row in traces.find(pending) for unit in follow(row)]
    units = [replace(unit, tried=unit.key in held.failed) for unit in units]
    order = [key for each in series.values() for key in each.ids()]
    return Plan(traces, order, set(held.rows), units, follow)


def completion_of(row: Trace) -> Completion:
    """What a row holds of its answer so far."""
    return Completion(
        row.reasoning,
        row.response,
        row.finish_reason,
        row.prompt_tokens,
        row.completion_tokens,
        row.logprobs,
        thinking=row.reasoning is not None and not row.response and row.finish_reason == "length",
    )
