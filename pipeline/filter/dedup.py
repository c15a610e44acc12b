"""Finds duplicates among all traces of a run, in a nested stage of filter that one process runs.

The shards are read twice, in parallel, and compared in order.

Only traces that all other rules keep are compared, so a rejected or an undecided trace, which is not taught,
cannot displace a good one. How texts are compared is in `filters/dataset/duplicates.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filters.result import failed, passed
from filters.table import as_verdict
from pipeline.config import Recipe
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.engine.worker_pool import parallel_map
from pipeline.filter.apply import VERSIONS, FilterContext, decided
from pipeline.filter.verdicts import filtered_batches
from pipeline.rows import Duplicate, Trace, TraceVerdicts, Verdict

if TYPE_CHECKING:
    from filters.dataset.minhash import Hashes32
    from filters.dataset.ngrams import Hashes, Indices

SHORT_WORDS = 50  # a trace of at most this many words is compared within its own problem only
PROBLEM, TRACE = "duplicate_problem", "duplicate_trace"  # names of the rules
_FIELDS = {"id", "problem_id", "question", "reasoning", "response", "outcome"}


def search_stage(traces: Stage, verdicts: Stage) -> Stage:
    """The stage that finds the duplicates among the traces that these verdicts keep."""
    return Stage(
        name="filter/duplicates",
        version=1,
        row=Duplicate,
        reads=(traces, verdicts),
        shards_from=verdicts.name,
        settings=settings,
        check=verdicts.check,
        work=_search,
        one_worker=True,
        free=True,
    )


def settings(recipe: Recipe) -> dict[str, Any]:
    """What is compared, and how."""
    table = recipe.filter.duplicates
    assert table is not None
    return table.model_dump() | {"versions": {name: VERSIONS[name] for name in (PROBLEM, TRACE)}}


def _search(job: Job, shards: Iterable[Shard]) -> None:
    """Searches all shards, as one text may repeat any other, and writes those that are open."""
    open_shards = {shard.name: shard for shard in shards}
    traces, verdicts = job.inputs.values()
    pairs = [(traces.shard(s.name), verdicts.shard(s.name)) for s in job.output.shards()]
    context, rows = FilterContext(job.recipe.filter), verdicts.counts().rows
    found = find_duplicates(context, pairs, rows, job.output.folder)
    for (shard, _), duplicates in zip(pairs, found, strict=True):
        if shard.name in open_shards:
            open_shards[shard.name].write(row.model_dump() for row in duplicates)


def find_duplicates(
    context: FilterContext, shards: Sequence[tuple[Shard, Shard]], rows: int, folder: Path
) -> Iterator[list[Duplicate]]:
    """Yields the problems and traces of each shard that repeat an earlier one.

    The shards of traces with their verdicts have this number of `rows`. Temporary files are in `folder`.
    """
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
            yield [
                Duplicate(id=key, rule=name, reason=result.reason, evidence=result.evidence)
                for name, index in indexes.items()
                for key, result in index.compare(i, *texts[name]).items()
            ]


def add_duplicate_verdicts(context: FilterContext, filtered: Shard, found: Shard, written: Shard) -> None:
    """Writes a shard of verdicts with those on duplicates added."""
    duplicates = {(row.rule, row.id): row for row in found.rows()}
    rows = [
        decided(row.id, row.problem_id, _all_verdicts(context, row, duplicates), context.ignored)
        for row in filtered.rows()
    ]
    written.write(row.model_dump() for row in rows)


def _all_verdicts(
    context: FilterContext, row: TraceVerdicts, duplicates: Mapping[tuple[str, str], Duplicate]
) -> Iterator[Verdict]:
    yield from row.verdicts
    if row.outcome != "kept":  # it was not compared
        return
    for rule in _thresholds(context):
        found = duplicates.get((rule, row.problem_id if rule == PROBLEM else row.id))
        result = failed(found.reason, found.evidence) if found else passed()
        yield as_verdict(rule, VERSIONS[rule], result)


def _thresholds(context: FilterContext) -> dict[str, float]:
    settings = context.settings.duplicates
    assert settings is not None
    both = {PROBLEM: settings.problems, TRACE: settings.traces}
    return {name: threshold for name, threshold in both.items() if threshold is not None}


def _ngram(context: FilterContext) -> int:
    assert context.settings.duplicates is not None
    return context.settings.duplicates.ngram


def _keys_of(context: FilterContext, traces: Shard, verdicts: Shard) -> dict[str, Hashes]:
    """For each rule, the keys of a shard's problems or traces that are kept."""
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
    """For each rule, the text of each problem or trace that is kept, by id."""
    batches = filtered_batches(traces, verdicts, leave_out=Trace.model_fields.keys() - _FIELDS)
    records = [record for batch in batches for record in batch.to_pylist() if record["outcome"] == "kept"]
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
