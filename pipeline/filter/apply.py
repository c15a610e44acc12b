"""Applies all rules to the traces of a shard, with shards in parallel processes.

Rules see one trace; contamination, majority and difficulty see the samples of one problem together.
Comparisons across shards are in `dedup.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from filters.dataset.difficulty import difficulty
from filters.dataset.majority import majority
from filters.policy import Policy
from filters.result import FilterResult
from filters.table import as_verdict, decide, verdicts_of
from pipeline.config.filters import Filter
from pipeline.config.sources import GymSource, Source
from pipeline.engine.shard import Shard
from pipeline.errors import UserError
from pipeline.filter.judge_verdict import results_by_key, verdict_key
from pipeline.ingest import sources
from pipeline.ingest.files import BadRow
from pipeline.rows import Logprobs, Sampling, Trace, TraceVerdicts, Verdict

if TYPE_CHECKING:
    from filters.dataset.contamination import ContaminationIndex

# Raised whenever a filter may give another result than before.
VERSIONS = {
    "contamination": 4,
    "majority": 6,
    "difficulty": 1,
    "duplicate_problem": 3,
    "duplicate_trace": 3,
}
DUPLICATES = frozenset({"duplicate_problem", "duplicate_trace"})  # the filters of [filter.duplicates]
_NO_QUESTION = "no question"  # the reason that `sources` gives for a row without one
_SCORED = ("python", "reasoning_gym")  # graded without a reference, by tests or the task's scorer


@dataclass(frozen=True)
class FilterContext:
    """What every worker process needs; picklable."""

    settings: Filter

    @property
    def ignored(self) -> frozenset[str]:
        """The filters whose verdicts do not decide."""
        names = frozenset(self.settings.ignored)
        return names | (DUPLICATES if "duplicates" in names else frozenset())

    @cached_property
    def contamination(self) -> ContaminationIndex | None:
        """The index of the evaluation sets, built once; pickled with the context from then on."""
        return contamination_index(self.settings)


def filter_shard(
    context: FilterContext, traces: Shard, filtered: Shard, judge_verdicts: Shard | None = None
) -> int:
    """Writes the verdicts on a shard of traces and returns their number."""
    judged = results_by_key(judge_verdicts) if judge_verdicts else {}
    problems = _by_problem(traces, context.settings.rules)
    rows = [row for problem in problems for row in filter_problem(context, problem, judged)]
    filtered.write(row.model_dump() for row in rows)
    return len(rows)


def filter_problem(
    context: FilterContext, traces: Sequence[Trace], judged: Mapping[str, FilterResult]
) -> Iterator[TraceVerdicts]:
    """Yields the verdicts on each sample of a problem, with the outcome that follows from them."""
    for trace, verdicts in zip(traces, verdicts_on_problem(context, traces, judged), strict=True):
        yield decided(trace.id, trace.problem_id, verdicts, context.ignored)


def decided(
    id: str, problem_id: str, verdicts: Iterable[Verdict], ignored: Collection[str] = ()
) -> TraceVerdicts:
    """The row of a trace with these verdicts."""
    verdicts = tuple(verdicts)
    outcome, reason = decide(verdicts, ignored)
    return TraceVerdicts(id=id, problem_id=problem_id, outcome=outcome, reason=reason, verdicts=verdicts)


def _by_problem(traces: Shard, rules: Collection[str]) -> Iterator[list[Trace]]:
    """Groups the samples of each problem, which are adjacent.

    Log-probabilities may be most of the data. They are read only for the rules that may use them.
    """
    used = any(name == "length" or ":" in name for name in rules)
    records = traces.records([name for name in Trace.model_fields if used or name != "logprobs"])
    for _, samples in groupby(records, key=lambda record: record["problem_id"]):
        yield [_trace(record) for record in samples]


def _trace(record: dict[str, Any]) -> Trace:
    """The trace of a record, without validation: it was validated when it was written."""
    nested = (("sampling", Sampling), ("logprobs", Logprobs))
    parts = {name: kind.model_construct(**record[name]) for name, kind in nested if record.get(name)}
    return Trace.model_construct(**record | parts)


def verdicts_on_problem(
    context: FilterContext, traces: Sequence[Trace], judged: Mapping[str, FilterResult]
) -> list[list[Verdict]]:
    """The verdicts on each sample of a problem: first every rule, then the filters that see all samples."""
    settings = context.settings
    by_vote = is_by_vote(settings, traces[0])
    rules = {name: given for name, given in settings.rules.items() if not (by_vote and name == "correct")}
    verdicts = [list(verdicts_of(trace, rules, _from_judge(trace, judged))) for trace in traces]

    def add(name: str, results: Sequence[FilterResult]) -> None:
        for of_trace, result in zip(verdicts, results, strict=True):
            of_trace.append(as_verdict(name, VERSIONS[name], result))

    if context.contamination:
        add("contamination", context.contamination.results(traces))
    if settings.majority and by_vote:
        add("majority", majority(traces, **settings.majority.model_dump(), policy=policy_of(settings)))
    if settings.difficulty:
        graded = [t.model_copy(update={"verdicts": v}) for t, v in zip(traces, verdicts, strict=True)]
        rule = "majority" if by_vote else "correct"
        add("difficulty", difficulty(graded, **settings.difficulty.model_dump(), rule=rule))
    return verdicts


def is_by_vote(settings: Filter, trace: Trace) -> bool:
    """Whether the vote of its problem's samples grades a trace, in place of the rule `correct`."""
    return settings.majority is not None and trace.reference is None and trace.answer_type not in _SCORED


def policy_of(settings: Filter) -> Policy:
    """The comparison policy of the rule `correct`."""
    given = settings.rules.get("correct", {})
    return Policy(**{f.name: given[f.name] for f in fields(Policy) if f.name in given})


def _from_judge(trace: Trace, judged: Mapping[str, FilterResult]) -> dict[str, FilterResult]:
    """The LLM judge's result for the rule `correct`, if there is one."""
    if trace.answer_type != "free":
        return {}
    key = verdict_key(trace.question, trace.reference, trace.response)
    return {"correct": judged[key]} if key in judged else {}


def contamination_index(settings: Filter) -> ContaminationIndex | None:
    """Indexes the evaluation sets of the recipe. Raises UserError for a set without questions."""
    from filters.dataset.contamination import ContaminationIndex

    wanted = settings.contamination
    if wanted is None:
        return None
    sets = {sources.name_of(s): _questions(s) for s in wanted.against}
    return ContaminationIndex(sets, ngrams=wanted.ngrams, common=wanted.common)


def questions_only(source: Source) -> Source:
    """The source without its answers, which the search for contamination does not need."""
    if isinstance(source, GymSource):
        return source
    unread = dict.fromkeys(("reference", "arguments", "tests", "entry_point"))
    return source.model_copy(update=unread | {"answer_type": "text", "columns": ()})


def _questions(source: Source) -> Iterator[tuple[str, str]]:
    """Yields origin and text of every question; origins without folders, as evidence is published.

    Raises UserError for a row that cannot be read.
    """
    for row in sources.read(questions_only(source), held_out=0, seed=0):
        if not isinstance(row, BadRow):
            yield PurePath(row.origin).name, row.question
        elif row.why != _NO_QUESTION:
            raise UserError(f"evaluation set {sources.name_of(source)!r}: {row.origin}: {row.why}")
