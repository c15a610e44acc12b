"""Duplicates among all traces of a run: sketched shard by shard, compared in the order of the shards.

Only traces that no other rule rejects are compared, so that none of those stands in a good one's place.
Leaves out how texts are compared (filters/dataset/duplicates.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filters
from filters.result import FilterResult, passed
from pipeline.engine.shard import Shard
from pipeline.filter.apply import VERSIONS, FilterContext, side_by_side, with_verdicts
from pipeline.rows import Verdict

if TYPE_CHECKING:
    from filters.dataset.minhash import Sketch

SHORT = 50  # words of a trace that is compared with those of its own problem alone
PROBLEM, TRACE = "duplicate_problem", "duplicate_trace"  # the names of the rules
_TEXTS = ("id", "problem_id", "question", "reasoning", "response", "outcome")
Found = dict[str, dict[str, FilterResult]]  # rule -> id of a problem or trace -> what it duplicates


def find_duplicates(judges: FilterContext, shards: Sequence[Shard], rows: int, folder: Path) -> Found:
    """The problems and traces that say the same as one before them.

    `folder` takes temporary files, about 4 bytes a word of what is compared.
    """
    from filters.dataset.duplicates import Duplicates

    kinds = _thresholds(judges)
    ids: dict[str, list[str]] = {name: [] for name in kinds}
    compared = {name: Duplicates(threshold=threshold, folder=folder) for name, threshold in kinds.items()}
    for sketched in side_by_side(_sketch_shard, judges, [(shard,) for shard in shards], rows):
        for name, (some, sketch) in sketched.items():
            ids[name] += some
            compared[name].add(some, sketch)
    found: Found = {}
    for name, texts in compared.items():
        with texts:
            findings = zip(ids[name], texts.findings(), strict=True)
            found[name] = {key: finding for key, finding in findings if finding.outcome == "failed"}
    return found


def without_duplicates(judged: Shard, written: Shard, found: Found) -> int:
    """Write a shard of judged traces with the verdicts on duplicates added; gives how many."""
    verdicts = [list(_with(record, found)) for record in _records(judged, ("id", "problem_id", "verdicts"))]
    written.write_groups(with_verdicts(judged, verdicts))
    return len(verdicts)


def _with(record: dict[str, Any], found: Found) -> Iterator[Verdict]:
    verdicts = [Verdict.model_construct(**verdict) for verdict in record["verdicts"]]
    yield from verdicts
    if filters.decide(verdicts)[0] != "rejected":  # the others were compared with nothing
        for name, key in ((PROBLEM, record["problem_id"]), (TRACE, record["id"])):
            if name in found:
                yield filters.as_verdict(name, VERSIONS[name], found[name].get(key, passed()))


def _thresholds(judges: FilterContext) -> dict[str, float]:
    wanted = judges.settings.duplicates
    assert wanted is not None
    both = {PROBLEM: wanted.problems, TRACE: wanted.traces}
    return {name: threshold for name, threshold in both.items() if threshold is not None}


def _sketch_shard(judges: FilterContext, judged: Shard) -> dict[str, tuple[list[str], Sketch]]:
    """For each rule the ids and the texts' sketches: of problems with a trace left, and of these traces."""
    from filters.dataset.minhash import sketch

    left = [record for record in _records(judged, _TEXTS) if record["outcome"] != "rejected"]
    texts = {
        PROBLEM: {record["problem_id"]: record["question"] for record in left},
        TRACE: {record["id"]: _said(record) for record in left},
    }
    assert judges.settings.duplicates is not None
    ngram = judges.settings.duplicates.ngram
    return {
        name: (list(texts[name]), sketch(list(texts[name].values()), threshold=threshold, ngram=ngram))
        for name, threshold in _thresholds(judges).items()
    }


def _said(record: dict[str, Any]) -> str:
    """What a trace says, without its question, which all samples of a problem share.

    A few words answer another question as well: those of a short trace are marked as its problem's own.
    """
    text = f"{record['reasoning'] or ''}\n{record['response']}"
    words = text.split(maxsplit=SHORT)
    if len(words) > SHORT:
        return text
    return " ".join(f"{record['problem_id']}{word}" for word in words)


def _records(shard: Shard, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    for batch in shard.batches(leave_out=set(shard.row.model_fields) - set(names)):
        yield from batch.to_pylist()
