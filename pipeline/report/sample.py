"""Chooses the traces that the browser shows: some of every stage, source, outcome and reason.

They are sampled uniformly within each stratum, and the same run gives the same sample. Then the strata take
turns until the bytes are spent, so a common stratum does not crowd out a rare one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from pipeline.inspect.format import clip
from pipeline.inspect.table import RowTable
from pipeline.rows import Trace

EACH = 100  # most traces of a stratum
MOST = 400  # traces in all
BYTES = 2_500_000  # of all traces as JSON
SHORT, TEXT = 600, 8_000  # characters that are shown
_CLIPPED = {"reason": SHORT, "reference": SHORT, "error": SHORT, "question": TEXT, "response": TEXT}
_CLIPPED["reasoning"] = 2 * TEXT
_WHOLE = ("id", "problem_id", "source", "teacher", "outcome", "finish_reason", "completion_tokens")
COLUMNS = (*_WHOLE, *_CLIPPED, "verdicts")
_STRATA = """
select source, outcome, reason, min_by(id, md5(id), $each) from rows group by source, outcome, reason
"""
_FIRST = """
select min(id) from rows where list_contains($problems, problem_id) group by problem_id order by problem_id
"""

Stratum = tuple[str, ...]


class Place(NamedTuple):
    """A trace of a stage."""

    stage: str
    id: str


def strata(stage: str, rows: RowTable[Trace], each: int = EACH) -> dict[Stratum, list[Place]]:
    """Draws at most `each` traces of each (source, outcome, reason): those whose id has the lowest hash."""
    found = rows.query(("id", "source", "outcome", "reason"), _STRATA, each=each)
    return {tuple(stratum): [Place(stage, id) for id in drawn] for *stratum, drawn in found}


def first_of(stage: str, rows: RowTable[Trace], problems: set[str]) -> list[Place]:
    """Finds the first trace of each of these problems."""
    found = rows.query(("id", "problem_id"), _FIRST, problems=sorted(problems))
    return [Place(stage, id) for (id,) in found]


def pick(
    first: Iterable[Place], groups: Sequence[dict[Stratum, list[Place]]], most: int = MOST
) -> list[Place]:
    """Returns `first`, then one trace of each stratum in turn, the smallest stratum first."""
    strata = (stratum for group in groups for stratum in group.items())
    lists = [places for _, places in sorted(strata, key=lambda s: (len(s[1]), s[0]))]
    turns = (place for turn in zip_longest(*lists) for place in turn if place is not None)
    return list(dict.fromkeys(chain(first, turns)))[:most]


def read(
    tables: Mapping[str, RowTable[Trace]], places: Sequence[Place], budget: int = BYTES
) -> list[dict[str, Any]]:
    """Reads the traces that fit into `budget` bytes of JSON, in order, in the form that the browser takes."""
    rows: dict[Place, dict[str, Any]] = {}
    for stage in {place.stage for place in places}:
        found = tables[stage].where(id=[place.id for place in places if place.stage == stage])
        records = (record for batch in found.batches(COLUMNS, size=64) for record in batch.to_pylist())
        rows |= {Place(stage, record["id"]): shown(stage, record, _CLIPPED) for record in records}
    fitting, spent = [], 0
    for place in places:
        size = len(json.dumps(rows[place], ensure_ascii=False).encode()) + 64
        if spent + size <= budget:
            fitting.append(rows[place])
            spent += size
    return fitting


def shown(stage: str, row: Mapping[str, Any], limits: Mapping[str, int]) -> dict[str, Any]:
    """A trace in the form that the browser takes; texts are clipped to the characters in `limits`."""
    grade = next((v for v in row["verdicts"] if v["filter"] == "correct"), None)
    verdicts = [
        [v["filter"], v["outcome"], clip(v["reason"], SHORT), clip(v["evidence"], SHORT)]
        for v in row["verdicts"]
    ]
    return {
        "stage": stage,
        **{name: row[name] for name in _WHOLE},
        **{name: clip(row[name], limits[name]) if name in limits else row[name] for name in _CLIPPED},
        "answer": clip(grade["evidence"], SHORT) if grade else None,
        "correct": grade["outcome"] if grade else None,
        "verdicts": verdicts,
    }
