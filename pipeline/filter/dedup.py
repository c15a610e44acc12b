"""Marks duplicates among all traces of a run. The shards are read twice, in parallel, and compared in order.

Only traces that no other rule rejects are compared, so a rejected trace cannot displace a good one. How texts
are compared is in `filters/dataset/duplicates.py`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filters.result import FilterResult, passed
from filters.table import as_verdict
from pipeline.engine.owner import this_owner
from pipeline.engine.shard import Shard
from pipeline.engine.worker_pool import parallel_map
from pipeline.filter.apply import VERSIONS, FilterContext, decided
from pipeline.filter.verdicts import filtered_batches
from pipeline.rows import Trace, TraceVerdicts, Verdict

if TYPE_CHECKING:
    from filters.dataset.minhash import Hashes32
    from filters.dataset.ngrams import Hashes, Indices

SHORT_WORDS = 50  # a trace of at most this many words is compared within its own problem only
PROBLEM, TRACE = "duplicate_problem", "duplicate_trace"  # names of the rules
_FIELDS = {"id", "problem_id", "question", "reasoning", "response", "outcome"}
DuplicateResults = dict[str, dict[str, FilterResult]]  # rule -> id of a problem or trace -> its failed result


@dataclass(frozen=True)
class ResultsFile:
    """The failed results of all shards, in a temporary file that any process can read."""

    path: Path
    offsets: dict[str, int]  # of the line of each shard, by its name

    def of(self, shard: str) -> DuplicateResults:
        with self.path.open("rb") as file:
            file.seek(self.offsets[shard])
            by_rule = json.loads(file.readline())
        return {
            name: {key: FilterResult(*result) for key, result in results.items()}
            for name, results in by_rule.items()
        }


def find_duplicates(
    context: FilterContext, shards: Sequence[tuple[Shard, Shard]], rows: int, folder: Path
) -> ResultsFile:
    """Finds the problems and traces that repeat an earlier one, in shards of traces with their verdicts.

    The shards have this number of `rows`. Temporary files are in `folder`, whose lock the caller holds; the
    results are one of them, to be deleted by the caller.
    """
    found = ResultsFile(folder / f".duplicates.{this_owner()}.tmp", {})
    with found.path.open("wb") as file:
        for (shard, _), results in zip(shards, _results(context, shards, rows, folder), strict=True):
            found.offsets[shard.name] = file.tell()
            file.write(json.dumps(results).encode() + b"\n")
    return found


def _results(
    context: FilterContext, shards: Sequence[tuple[Shard, Shard]], rows: int, folder: Path
) -> Iterator[DuplicateResults]:
    """Yields the results of each shard, in order."""
    from filters.dataset.duplicates import DuplicateIndex

    with ExitStack() as stack:
        indexes = {
            name: stack.enter_context(DuplicateIndex(threshold=threshold, folder=folder))
            for name, threshold in _thresholds(context).items()
        }
        for keys in parallel_map(_keys_of, context, shards, rows):
            for name, index in indexes.items():
                index.add(keys[name])
        for index in indexes.values():
            index.group()
        shared = ({name: index.shared(i) for name, index in indexes.items()} for i in range(len(shards)))
        arguments = ((*pair, chosen) for pair, chosen in zip(shards, shared, strict=True))
        for i, texts in enumerate(parallel_map(_shingles_of, context, arguments, rows)):
            yield {name: index.compare(i, *texts[name]) for name, index in indexes.items()}


def add_duplicate_verdicts(
    filtered: Shard, written: Shard, duplicates: DuplicateResults, ignored: Collection[str] = ()
) -> int:
    """Writes a shard of verdicts with those on duplicates added; returns the number of traces."""
    rows = [
        decided(row.id, row.problem_id, _all_verdicts(row, duplicates), ignored) for row in filtered.rows()
    ]
    written.write(row.model_dump() for row in rows)
    return len(rows)


def _all_verdicts(row: TraceVerdicts, duplicates: DuplicateResults) -> Iterator[Verdict]:
    yield from row.verdicts
    if row.outcome != "rejected":  # rejected traces were not compared
        for name, key in ((PROBLEM, row.problem_id), (TRACE, row.id)):
            if name in duplicates:
                yield as_verdict(name, VERSIONS[name], duplicates[name].get(key, passed()))


def _thresholds(context: FilterContext) -> dict[str, float]:
    settings = context.settings.duplicates
    assert settings is not None
    both = {PROBLEM: settings.problems, TRACE: settings.traces}
    return {name: threshold for name, threshold in both.items() if threshold is not None}


def _ngram(context: FilterContext) -> int:
    assert context.settings.duplicates is not None
    return context.settings.duplicates.ngram


def _keys_of(context: FilterContext, traces: Shard, verdicts: Shard) -> dict[str, Hashes]:
    """For each rule, the keys of a shard's problems or traces that are not rejected."""
    from filters.dataset.minhash import text_keys

    texts = _texts_of(traces, verdicts)
    return {
        name: text_keys(list(texts[name].values()), threshold=threshold, ngram=_ngram(context))
        for name, threshold in _thresholds(context).items()
    }


def _shingles_of(
    context: FilterContext, traces: Shard, verdicts: Shard, chosen: Mapping[str, Indices]
) -> dict[str, tuple[list[str], list[Hashes32]]]:
    """For each rule, the ids and shingles of the chosen texts among those that have keys."""
    from filters.dataset.minhash import text_shingles

    if not any(map(len, chosen.values())):
        return {name: ([], []) for name in chosen}
    found, texts = {}, _texts_of(traces, verdicts)
    for name, indices in chosen.items():
        keys, of_keys = list(texts[name]), list(texts[name].values())
        shingles = text_shingles([of_keys[i] for i in indices], ngram=_ngram(context))
        found[name] = [keys[i] for i in indices], shingles
    return found


def _texts_of(traces: Shard, verdicts: Shard) -> dict[str, dict[str, str]]:
    """For each rule, the text of each problem or trace that is not rejected, by id."""
    batches = filtered_batches(traces, verdicts, leave_out=Trace.model_fields.keys() - _FIELDS)
    records = [record for batch in batches for record in batch.to_pylist() if record["outcome"] != "rejected"]
    return {
        PROBLEM: {record["problem_id"]: record["question"] for record in records},
        TRACE: {record["id"]: _text_of(record) for record in records},
    }


def _text_of(record: dict[str, Any]) -> str:
    """A trace's reasoning and response, without the question that all samples of a problem share.

    A few words may answer different questions, so the words of a short trace carry their problem's id.
    """
    text = f"{record['reasoning'] or ''}\n{record['response']}"
    words = text.split(maxsplit=SHORT_WORDS)
    if len(words) > SHORT_WORDS:
        return text
    return " ".join(f"{record['problem_id']}{word}" for word in words)
