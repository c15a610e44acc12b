"""Where traces went: kept, rejected by which rule, undecided; and what each rule does by itself.

Counted by Arrow over a few columns, so that millions take seconds. in = kept + rejected + unknown, each trace
under the first rule that said so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.engine import sealed_file
from pipeline.rows import Row

BATCH = 8192  # traces
COLUMNS = ("outcome", "reason", "verdicts")


class Rule(Row):
    """What one rule says of all traces, whatever the others say."""

    fails: int
    alone: int  # of those it fails, the traces that no other rule fails
    unknown: int


class Yield(Row):
    traces: int
    kept: int
    rejected: dict[str, int]  # "rule: reason" -> traces, the most first
    unknown: dict[str, int]


class Funnel(Yield):
    rules: dict[str, Rule]


def funnel(paths: Sequence[Path]) -> Funnel:
    """The funnel of the judged traces in these Parquet files."""
    outcomes: Counter[tuple[str, str]] = Counter()
    fails: Counter[str] = Counter()
    alone: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    seen: dict[str, None] = {}  # the rules in the order in which they judge
    for batch in batches(paths, COLUMNS):
        outcomes.update(zip(*(batch.column(name).to_pylist() for name in COLUMNS[:2]), strict=True))
        names, failing, only, undecided = _verdicts(batch.column("verdicts"))
        seen |= dict.fromkeys(names.unique().to_pylist())
        for counter, mask in ((fails, failing), (alone, only), (unknown, undecided)):
            counter.update(_counts(names.filter(mask)))
    rules = {name: Rule(fails=fails[name], alone=alone[name], unknown=unknown[name]) for name in seen}
    by_outcome = {
        which: dict(
            Counter(
                {reason: n for (outcome, reason), n in outcomes.items() if outcome == which}
            ).most_common()
        )
        for which in ("kept", "rejected", "undecided")
    }
    return Funnel(
        traces=outcomes.total(),
        kept=sum(by_outcome["kept"].values()),
        rejected=by_outcome["rejected"],
        unknown=by_outcome["undecided"],
        rules=rules,
    )


def batches(paths: Sequence[Path], columns: Sequence[str], size: int = BATCH) -> Iterator[Any]:
    """Some columns of these sealed files as Arrow, `size` rows at a time, file by file."""
    for path in paths:
        with sealed_file.opened(path, {column.partition(".")[0] for column in columns}) as file:
            yield from file.iter_batches(batch_size=size, columns=list(columns))


def _verdicts(verdicts: Any) -> tuple[Any, Any, Any, Any]:
    """The rule of every verdict, and masks of those that fail, that fail alone, that cannot tell."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    flat = verdicts.flatten()
    names, outcomes = flat.field("filter"), flat.field("outcome")
    failing = pc.equal(outcomes, "failed").to_numpy(zero_copy_only=False)
    of = pc.list_parent_indices(verdicts).to_numpy(zero_copy_only=False)
    failures = np.bincount(of[failing], minlength=len(verdicts)) if len(of) else np.zeros(len(verdicts), int)
    only = failing & (failures[of] == 1)
    return names, pa.array(failing), pa.array(only), pc.equal(outcomes, "undecided")


def _counts(values: Any) -> dict[str, int]:
    return {pair["values"]: pair["counts"] for pair in values.value_counts().to_pylist()}
