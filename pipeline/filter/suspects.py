"""Finds references that may be wrong: a strong majority of a problem's samples agrees on another answer.

A wrong reference rejects the correct traces and keeps those that err in the same way. The list is for people
to look at: a hard problem misleads most samples, too. The vote is that of `filters.dataset.majority`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from filters.dataset.majority import Tally, count_votes
from filters.policy import Policy
from pipeline.config.filters import Filter, Majority
from pipeline.engine.query import query
from pipeline.engine.shard import Shard
from pipeline.filter.apply import policy_of
from pipeline.filter.verdicts import filtered_traces
from pipeline.rows import Row, Trace

_UNVOTED = ("instructions", "free", "python", "reasoning_gym")  # answer types whose answers are no votes
# Problems most of whose graded samples contradict the reference: others can have no such majority
_CANDIDATES = """
select problem_id from (select problem_id, unnest(verdicts) as verdict from rows)
where verdict.filter = 'correct'
group by problem_id
having count(*) filter (verdict.outcome = 'failed')
    >= greatest($votes, 1 + count(*) filter (verdict.outcome = 'passed'))
"""


class Suspect(Row):
    """A problem whose reference may be wrong."""

    problem_id: str
    source: str
    question: str
    reference: str
    answer: str  # of the majority
    votes_for_it: int
    votes: int  # in all
    lead: float  # of the majority over the second answer, as a share of the votes
    traces: tuple[str, ...]  # ids of those that give the majority's answer


def suspects(shards: Sequence[tuple[Shard, Shard]], table: Filter) -> Iterator[Suspect]:
    """Yields the suspects in the order of their problems; `shards` are sealed traces with their verdicts.

    The majority is as strong as `[filter.majority]` asks, or its defaults. Without the rule `correct` no
    sample contradicts a reference, so there are none.
    """
    strength, policy = table.majority or Majority(), policy_of(table)
    paths = [verdicts.path for _, verdicts in shards]
    rows = query(paths, ("problem_id", "verdicts"), _CANDIDATES, votes=strength.votes)
    wanted = {id for (id,) in rows}
    for traces, verdicts in shards if wanted else ():
        if wanted.isdisjoint(verdicts.column("problem_id")):
            continue
        found = (trace for trace in filtered_traces(traces, verdicts) if trace.problem_id in wanted)
        for _, group in groupby(found, key=lambda trace: trace.problem_id):
            if suspect := _suspect(list(group), strength, policy):
                yield suspect


def _suspect(traces: Sequence[Trace], strength: Majority, policy: Policy) -> Suspect | None:
    """The problem of these samples, if its reference may be wrong."""
    first = traces[0]
    if first.reference is None or first.answer_type in _UNVOTED:
        return None
    tally = count_votes(traces, strength.votes, policy=policy)
    if not isinstance(tally, Tally) or tally.lead < strength.margin:
        return None
    agreeing = [traces[i] for i in tally.of_winner]
    if {_graded(trace) for trace in agreeing} != {"failed"}:  # undecided: nothing contradicts the reference
        return None
    return Suspect(
        **first.model_dump(include={"problem_id", "source", "question", "reference"}),
        answer=tally.winner,
        votes_for_it=len(agreeing),
        votes=tally.votes,
        lead=round(tally.lead, 4),
        traces=tuple(trace.id for trace in agreeing),
    )


def _graded(trace: Trace) -> str:
    return next((v.outcome for v in trace.verdicts if v.filter == "correct"), "undecided")
