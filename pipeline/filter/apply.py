"""Judging the traces of a shard, and shards side by side in processes.

Rules see a trace; majority and difficulty see the samples of one problem together. Columns that no rule
reads, the token log-probabilities, are carried over as Arrow without becoming Python objects. Leaves out what
looks across all shards (stages/filter.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

import filters
from filters.dataset.difficulty import difficulty
from filters.dataset.majority import majority
from filters.policy import Policy
from filters.result import FilterResult
from pipeline.config.sources import GymSource, Source
from pipeline.config.traces import Filter
from pipeline.engine import worker_pool
from pipeline.engine.shard import Shard
from pipeline.errors import UserError
from pipeline.filter.judge_verdict import findings, opinion_id
from pipeline.ingest import sources
from pipeline.ingest.files import BadRow
from pipeline.rows import Trace, Verdict, arrow_schema

if TYPE_CHECKING:
    import pyarrow as pa

    from filters.dataset.contamination import Contamination

T = TypeVar("T")
# Raised whenever a trace might be judged otherwise than before.
VERSIONS = {
    "contamination": 2,
    "majority": 3,
    "difficulty": 1,
    "duplicate_problem": 2,
    "duplicate_trace": 2,
}
_NO_QUESTION = "no question"  # what `sources` says of a row in which there is nothing to look for
MIN_PARALLEL_ROWS = 4000  # traces that are judged sooner than other processes have started
_UNREAD = ("logprobs",)
_SCORED = ("python", "reasoning_gym")  # judged by a program's tests or the task's scorer, without a reference


@dataclass(frozen=True)
class FilterContext:
    """What is asked of every trace; has to be picklable."""

    settings: Filter

    @cached_property
    def contamination(self) -> Contamination | None:
        """The index of the evaluation sets, built once in each process."""
        return contamination_of(self.settings)


def judge_shard(
    judges: FilterContext, traces: Shard, judged: Shard, judge_verdicts: Shard | None = None
) -> int:
    """Write the shard of judged traces; gives how many. `judge_verdicts`: on the free-text answers among them."""
    found = findings(judge_verdicts) if judge_verdicts else {}
    verdicts = [v for problem in _by_problem(traces) for v in _on_problem(judges, problem, found)]
    judged.write_groups(with_verdicts(traces, verdicts))
    return len(verdicts)


def side_by_side(
    work: Callable[..., T], judges: FilterContext, todo: Sequence[tuple[Any, ...]], rows: int
) -> Iterator[T]:
    """What `work(judges, *arguments)` gives for each of the arguments, in their order.

    In processes side by side where so many rows are worth it.
    """
    return worker_pool.side_by_side(work, judges, todo, rows > MIN_PARALLEL_ROWS)


def _by_problem(traces: Shard) -> Iterator[list[Trace]]:
    """The samples of each problem, which lie side by side."""
    records = (record for batch in traces.batches(leave_out=_UNREAD) for record in batch.to_pylist())
    for _, samples in groupby(records, key=lambda record: record["problem_id"]):
        # What we wrote ourselves was checked when it was written.
        yield [Trace.model_construct(**record) for record in samples]


def _on_problem(
    judges: FilterContext, traces: Sequence[Trace], found: Mapping[str, FilterResult]
) -> Iterator[list[Verdict]]:
    """Every rule on each trace, then what sees all samples of the problem and the verdicts so far."""
    settings = judges.settings
    first = traces[0]
    by_vote = settings.majority is not None and first.reference is None and first.answer_type not in _SCORED
    rules = {name: given for name, given in settings.rules.items() if not (by_vote and name == "correct")}
    verdicts = [list(filters.verdicts_on(trace, rules, _known(trace, found))) for trace in traces]

    def add(name: str, said: Sequence[FilterResult]) -> None:
        for each, finding in zip(verdicts, said, strict=True):
            each.append(filters.as_verdict(name, VERSIONS[name], finding))

    if judges.contamination:
        add("contamination", judges.contamination.findings(traces))
    if settings.majority and by_vote:
        voted = majority(traces, **settings.majority.model_dump(), policy=_policy(settings))
        add("majority", voted)
    if settings.difficulty:
        judged = [t.model_copy(update={"verdicts": v}) for t, v in zip(traces, verdicts, strict=True)]
        rule = "majority" if by_vote else "correct"
        add("difficulty", difficulty(judged, **settings.difficulty.model_dump(), rule=rule))
    yield from verdicts


def _policy(settings: Filter) -> Policy:
    """What counts as the same answer, as the rule `correct` is told."""
    given = settings.rules.get("correct", {})
    return Policy(**{f.name: given[f.name] for f in fields(Policy) if f.name in given})


def _known(trace: Trace, found: Mapping[str, FilterResult]) -> dict[str, FilterResult]:
    """What a judge model said of the trace."""
    if trace.answer_type != "free":
        return {}
    key = opinion_id(trace.question, trace.reference, trace.response)
    return {"correct": found[key]} if key in found else {}


def contamination_of(settings: Filter) -> Contamination | None:
    """The index of the evaluation sets that the recipe names. Raises UserError for one without questions."""
    from filters.dataset.contamination import Contamination

    wanted = settings.contamination
    if wanted is None:
        return None
    sets = {sources.name_of(s): _questions(s) for s in wanted.against}
    return Contamination(sets, ngrams=wanted.ngrams, common=wanted.common)


def questions_of(source: Source) -> Source:
    """A source of which the questions alone are read: what they are answered with is nothing to a search."""
    if isinstance(source, GymSource):
        return source
    return source.model_copy(update={"reference": None, "tests": None, "answer_type": "text"})


def _questions(source: Source) -> Iterator[tuple[str, str]]:
    """Origin and text of every question. Raises UserError for a row that holds one that cannot be read."""
    for row in sources.read(questions_of(source), held_out=0, seed=0):
        if not isinstance(row, BadRow):
            yield row.origin, row.question
        elif row.why != _NO_QUESTION:
            raise UserError(f"evaluation set {sources.name_of(source)!r}: {row.origin}: {row.why}")


def with_verdicts(traces: Shard, verdicts: Sequence[Sequence[Verdict]]) -> Iterator[pa.Table]:
    """The shard's rows as they are, with these verdicts and what follows from them."""
    import pyarrow as pa

    schema = arrow_schema(Trace)
    start = 0
    for batch in traces.batches():
        some = verdicts[start : start + len(batch)]
        start += len(batch)
        decided = [filters.decide(each) for each in some]
        columns = {
            "verdicts": [[dict(verdict) for verdict in each] for each in some],
            "outcome": [outcome for outcome, _ in decided],
            "reason": [reason for _, reason in decided],
        }
        table = pa.Table.from_batches([batch])
        for name, values in columns.items():
            at = schema.get_field_index(name)
            table = table.set_column(at, schema.field(name), pa.array(values, schema.field(name).type))
        yield table
