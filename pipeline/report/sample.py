"""Which traces the browser shows: some of every stage, source, outcome and reason, bounded in bytes.

Drawn evenly within each stratum, with fixed seeds, so that the same run gives the same sample. Then strata
take turns until the bytes are spent: what is rare is there, and what is common does not crowd it out.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.engine import sealed_file
from pipeline.filter.funnel import batches
from pipeline.rows import Trace

EACH = 100  # traces of a stratum, at most
MOST = 400  # traces in all
BYTES = 2_500_000  # of all of them as JSON
THOUGHT, TEXT, SHORT = 16_000, 8_000, 600  # characters that are shown of a thought, a text, an answer
_COLUMNS = [name for name in Trace.model_fields if name not in ("logprobs", "metadata")]

Label = tuple[str, ...]


class PooledEndpoint(NamedTuple):
    """Where a trace lies."""

    stage: str
    path: Path
    row: int


def strata(stage: str, paths: Sequence[Path], each: int = EACH) -> dict[Label, list[PooledEndpoint]]:
    """(source, outcome, reason) -> places of `each` of its traces or fewer, drawn evenly."""
    heaps: dict[Label, list[tuple[float, PooledEndpoint]]] = {}
    draw = np.random.default_rng(0)
    for path in paths:
        for first, labels in _labels(path):
            for row, (label, key) in enumerate(zip(labels, draw.random(len(labels)).tolist(), strict=True)):
                heap = heaps.setdefault(label, [])
                if len(heap) < each:
                    heapq.heappush(heap, (-key, PooledEndpoint(stage, path, first + row)))
                elif -key > heap[0][0]:
                    heapq.heapreplace(heap, (-key, PooledEndpoint(stage, path, first + row)))
    return {label: [place for _, place in sorted(heap)] for label, heap in heaps.items()}


def places_of(stage: str, paths: Sequence[Path], problems: set[str]) -> list[PooledEndpoint]:
    """The first trace of each of these problems."""
    found: dict[str, PooledEndpoint] = {}
    for path in paths:
        with sealed_file.opened(path, ["problem_id"]) as file:
            ids = file.read(columns=["problem_id"])["problem_id"].to_pylist()
        for row, problem in enumerate(ids):
            if problem in problems:
                found.setdefault(problem, PooledEndpoint(stage, path, row))
    return list(found.values())


def pick(
    first: Iterable[PooledEndpoint], groups: Sequence[dict[Label, list[PooledEndpoint]]], most: int = MOST
) -> list[PooledEndpoint]:
    """Those wanted anyway, then one of each stratum in turn, the rarest strata first."""
    lists = sorted((places for group in groups for places in group.values()), key=len)
    turns = (place for turn in zip_longest(*lists) for place in turn if place is not None)
    return list(dict.fromkeys(chain(first, turns)))[:most]


def read(places: Sequence[PooledEndpoint], budget: int = BYTES) -> list[dict[str, Any]]:
    """These traces as the browser takes them, in order, those that fit into `budget` bytes of JSON."""
    rows = dict(_rows(places))
    shown, spent = [], 0
    for place in places:
        size = len(json.dumps(rows[place], ensure_ascii=False).encode()) + 64
        if spent + size <= budget:
            shown.append(rows[place])
            spent += size
    return shown


def _labels(path: Path) -> Iterator[tuple[int, list[Label]]]:
    """Of each batch the number of its first row, and source, outcome, reason of every row."""
    first, names = 0, ("source", "outcome", "reason")
    for batch in batches([path], names):
        yield first, list(zip(*(batch.column(name).to_pylist() for name in names), strict=True))
        first += len(batch)


def _rows(places: Sequence[PooledEndpoint]) -> Iterator[tuple[PooledEndpoint, dict[str, Any]]]:
    """Read row group by row group, so that no file is ever held whole."""
    by_path: dict[Path, list[PooledEndpoint]] = {}
    for place in sorted(places, key=lambda place: (place.path, place.row)):
        by_path.setdefault(place.path, []).append(place)
    for path, wanted in by_path.items():
        with sealed_file.opened(path, _COLUMNS) as file:
            begin = 0
            for number in range(file.num_row_groups):
                end = begin + file.metadata.row_group(number).num_rows
                here = [place for place in wanted if begin <= place.row < end]
                if here:
                    group = file.read_row_group(number, columns=_COLUMNS)
                    records = group.take([place.row - begin for place in here]).to_pylist()
                    yield from ((p, _shown(p.stage, r)) for p, r in zip(here, records, strict=True))
                begin = end


def _shown(stage: str, row: dict[str, Any]) -> dict[str, Any]:
    verdicts = row["verdicts"]
    said = next((v for v in verdicts if v["filter"] == "correct"), None)
    return {
        "id": row["id"],
        "problem": row["problem_id"],
        "stage": stage,
        "source": row["source"],
        "teacher": row["teacher"],
        "outcome": row["outcome"],
        "reason": clip(row["reason"], SHORT),
        "question": clip(row["question"], TEXT),
        "reference": clip(row["reference"], SHORT),
        "answer": clip(said["evidence"], SHORT) if said else None,
        "correct": said["outcome"] if said else None,
        "thought": clip(row["reasoning"], THOUGHT),
        "response": clip(row["response"], TEXT),
        "finish": row["finish_reason"],
        "tokens": row["completion_tokens"],
        "error": clip(row["error"], SHORT),
        "verdicts": [
            [v["filter"], v["outcome"], clip(v["reason"], SHORT), clip(v["evidence"], SHORT)]
            for v in verdicts
        ],
    }


def clip(text: str | None, most: int) -> str | None:
    """The text, or its two ends and how much was left out between them."""
    if text is None or len(text) <= most:
        return text
    left_out = f"\n\n[... {len(text) - most:,} characters left out ...]\n\n"
    return text[: most // 2] + left_out + text[-(most - most // 2) :]
