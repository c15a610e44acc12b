"""Marks duplicates among all traces of a run: sketches shard by shard, then compares in shard order.

Only traces that no other rule rejects are compared, so a rejected trace cannot displace a good one. How texts
are compared is in `filters/dataset/duplicates.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filters.result import FilterResult, passed
from filters.table import as_verdict
from pipeline.engine.shard import Shard
from pipeline.filter.apply import VERSIONS, FilterContext, decided, map_shards
from pipeline.filter.verdicts import filtered_batches
from pipeline.rows import Trace, TraceVerdicts, Verdict

if TYPE_CHECKING:
    from filters.dataset.minhash import Sketch

SHORT_WORDS = 50  # a trace of at most this many words is compared within its own problem only
PROBLEM, TRACE = "duplicate_problem", "duplicate_trace"  # names of the rules
_FIELDS = ("id", "problem_id", "question", "reasoning", "response", "outcome")
DuplicateResults = dict[str, dict[str, FilterResult]]  # rule -> id of a problem or trace -> its failed result


def find_duplicates(
    context: FilterContext, shards: Sequence[tuple[Shard, Shard]], rows: int, folder: Path
) -> DuplicateResults:
    """Finds the problems and traces that repeat an earlier one, in shards of traces with their verdicts.

    Temporary files in `folder` take about 4 bytes per compared word.
    """
    from filters.dataset.duplicates import DuplicateIndex

    thresholds = _thresholds(context)
    ids: dict[str, list[str]] = {name: [] for name in thresholds}
    compared = {name: DuplicateIndex(threshold=t, folder=folder) for name, t in thresholds.items()}
    for sketches in map_shards(_sketch_shard, context, shards, rows):
        for name, (some_ids, sketch) in sketches.items():
            ids[name] += some_ids
            compared[name].add(some_ids, sketch)
    duplicates: DuplicateResults = {}
    for name, texts in compared.items():
        with texts:
            results = zip(ids[name], texts.results(), strict=True)
            duplicates[name] = {key: result for key, result in results if result.outcome == "failed"}
    return duplicates


def add_duplicate_verdicts(filtered: Shard, written: Shard, duplicates: DuplicateResults) -> int:
    """Writes a shard of verdicts with those on duplicates added; returns the number of traces."""
    rows = [decided(row.id, row.problem_id, _all_verdicts(row, duplicates)) for row in filtered.rows()]
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


def _sketch_shard(
    context: FilterContext, traces: Shard, verdicts: Shard
) -> dict[str, tuple[list[str], Sketch]]:
    """For each rule, the ids and sketches of the problems or traces that are not rejected."""
    from filters.dataset.minhash import sketch

    batches = filtered_batches(traces, verdicts, leave_out=Trace.model_fields.keys() - _FIELDS)
    records = [record for batch in batches for record in batch.to_pylist() if record["outcome"] != "rejected"]
    texts = {
        PROBLEM: {record["problem_id"]: record["question"] for record in records},
        TRACE: {record["id"]: _text_of(record) for record in records},
    }
    assert context.settings.duplicates is not None
    ngram = context.settings.duplicates.ngram
    return {
        name: (list(texts[name]), sketch(list(texts[name].values()), threshold=threshold, ngram=ngram))
        for name, threshold in _thresholds(context).items()
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
