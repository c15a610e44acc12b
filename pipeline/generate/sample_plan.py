"""Decides which samples a problem still needs, from the saved rows alone.

A sample is requested, continued while its reasoning is truncated, and filtered if that decides whether the
problem needs more samples. Since only saved rows matter, a resumed run decides as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from pipeline.engine.scheduler import Plan, WorkItem
from pipeline.engine.shard import JournalContents, Shard
from pipeline.inference.response import Completion, can_continue
from pipeline.rows import Outcome, Problem, Trace

FAILED = "failed"  # the finish_reason of a sample without a response
FILTERING = "filtering"  # the queue of items that filter a trace; each teacher has a queue of its own
_FIELDS = ("finish_reason", "continuations", "outcome", "error")


@dataclass(frozen=True)
class SampleBudget:
    """How many samples a problem gets from each teacher."""

    max_samples: int
    target_kept: int | None  # stop once this many are kept; None: always `max_samples`
    max_continuations: int  # of one truncated sample


@dataclass(frozen=True)
class SampleRequest:
    """One sample of a problem: to be requested or, if it has a row, to be continued or filtered."""

    problem: Problem
    teacher: int  # position in the recipe
    sample: int
    row: Trace | None = None


def trace_id(problem_id: str, teacher: int, sample: int) -> str:
    return f"{problem_id}-{teacher}-{sample:04d}"


def sampling_seed(problem_id: str, sample: int, run_seed: int, continuations: int = 0) -> int:
    """A 31-bit seed that depends on the sample alone, so that order and concurrency change nothing."""
    text = f"{run_seed} {problem_id} {sample} {continuations}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def samples_needed(outcomes: Mapping[int, Outcome], budget: SampleBudget) -> int:
    """The number of samples a problem needs, given the outcomes so far; it never shrinks.

    This is the smallest number that contains `target_kept` kept samples if every unfiltered one is kept. So
    samples run in parallel only as far as no outcome could make one superfluous, and any order of responses
    leads to the same end.
    """
    if budget.target_kept is None:
        return budget.max_samples
    kept = 0
    for sample in range(budget.max_samples):
        kept += outcomes.get(sample, "kept") == "kept"
        if kept == budget.target_kept:
            return sample + 1
    return budget.max_samples


class ProblemSamples:
    """The samples of one problem by one teacher.

    `on_finished` is called with the number of samples once no more are needed.
    """

    def __init__(
        self, problem: Problem, teacher: int, budget: SampleBudget, on_finished: Callable[[int], None]
    ) -> None:
        self.problem, self.teacher, self.budget, self.on_finished = problem, teacher, budget, on_finished
        self.outcomes: dict[int, Outcome] = {}  # of samples that need nothing more
        self._unfinished: dict[int, Trace] = {}  # saved; continued or filtered when they are needed
        self._requested = 0  # samples below this number are saved or open
        self._length = len(problem.question) / 1e6  # tokens of the longest sample; at first only an order

    def ids(self) -> list[str]:
        """The ids of all samples that the budget allows."""
        return [trace_id(self.problem.id, self.teacher, i) for i in range(self.budget.max_samples)]

    def unfinished(self, journal: JournalContents) -> list[str]:
        """Keys of rows that may still have to be continued or filtered."""
        return [key for key in self.ids() if key in journal.rows and self._is_unfinished(journal.rows[key])]

    def first_items(self, journal: JournalContents, unfinished: Mapping[str, Trace]) -> list[WorkItem]:
        """The items that are open at the start. `unfinished`: the rows with the keys of `unfinished()`.

        Rows that are not needed, since `target_kept` is lower now, stay as they are.
        """
        for sample, key in enumerate(self.ids()):
            if key in unfinished:
                self._unfinished[sample] = unfinished[key]
            elif row := journal.rows.get(key):
                self._record(sample, row["finish_reason"], row["outcome"])
        return self._more()

    def next_items(self, row: Trace) -> list[WorkItem]:
        """The items that follow from a row."""
        if item := self._follow_up(row):
            return [item]
        return self._more()

    def _follow_up(self, row: Trace) -> WorkItem | None:
        """The item that continues or filters a row. None if nothing is left; its outcome then counts."""
        self._length = max(self._length, row.completion_tokens or 0)
        truncated = self._is_truncated(row.finish_reason, row.continuations, row.error)
        if truncated and can_continue(completion_of(row)):
            return self._item(row.sample, str(self.teacher), row)
        if self._needs_filtering(row.finish_reason, row.outcome):
            return self._item(row.sample, FILTERING, row)
        self._record(row.sample, row.finish_reason, row.outcome)
        return None

    def _record(self, sample: int, finish_reason: str, outcome: Outcome) -> None:
        # A failed sample counts as kept: another one in its place would likely fail too
        self.outcomes[sample] = "kept" if finish_reason == FAILED else outcome

    def _is_unfinished(self, row: dict[str, Any]) -> bool:
        truncated = self._is_truncated(row["finish_reason"], row["continuations"], row["error"])
        return truncated or self._needs_filtering(row["finish_reason"], row["outcome"])

    def _needs_filtering(self, finish_reason: str, outcome: Outcome) -> bool:
        return self.budget.target_kept is not None and outcome == "unfiltered" and finish_reason != FAILED

    def _is_truncated(self, finish_reason: str, continuations: int, error: str | None) -> bool:
        may_continue = error is None and continuations < self.budget.max_continuations
        return finish_reason == "length" and may_continue

    def _more(self) -> list[WorkItem]:
        items = []
        while self._requested < samples_needed(self.outcomes, self.budget):
            sample, self._requested = self._requested, self._requested + 1
            if saved := self._unfinished.pop(sample, None):
                items.append(self._follow_up(saved))
            elif sample not in self.outcomes:
                items.append(self._item(sample, str(self.teacher)))
        if self.outcomes.keys() >= set(range(self._requested)):
            self.on_finished(self._requested)
        return [item for item in items if item]

    def _item(self, sample: int, queue: str, row: Trace | None = None) -> WorkItem:
        request = SampleRequest(self.problem, self.teacher, sample, row)
        return WorkItem(trace_id(self.problem.id, self.teacher, sample), request, queue, self._length)


def make_plan(
    problems: Sequence[tuple[Problem, Sequence[int]]],
    traces: Shard,
    budget: SampleBudget,
    on_finished: Callable[[int], None],
    given: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Plan:
    """The plan of a shard: problems, each with its teachers, and the journal of their traces.

    `on_finished` is called once per problem and teacher, with the number of samples. `given`: the ids of the
    traces of problems that are not sampled; they are in the journal already.
    """
    journal = traces.read_journal(_FIELDS)
    samples = {
        (p.id, t): ProblemSamples(p, t, budget, on_finished) for p, teachers in problems for t in teachers
    }
    keys = {key for each in samples.values() for key in each.unfinished(journal)}
    unfinished = {row.id: row for row in traces.journal_rows(keys)} if keys else {}
    items = [item for each in samples.values() for item in each.first_items(journal, unfinished)]

    def next_items(row: Trace) -> list[WorkItem]:
        return samples[row.problem_id, int(row.id.split("-")[-2])].next_items(row)

    items = [replace(item, failed_before=item.key in journal.failed) for item in items]
    order = [
        key
        for p, teachers in problems
        for key in (*given.get(p.id, ()), *(key for t in teachers for key in samples[p.id, t].ids()))
    ]
    return Plan(traces, order, set(journal.rows), items, next_items)


def completion_of(row: Trace) -> Completion:
    """The response so far, as the client returned it."""
    return Completion(
        row.reasoning,
        row.response,
        row.finish_reason,
        row.prompt_tokens,
        row.completion_tokens,
        row.logprobs,
        thinking=row.reasoning is not None and not row.response and row.finish_reason == "length",
    )
