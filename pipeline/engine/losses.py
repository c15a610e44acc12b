"""Decides when lost workers or nodes of a cluster end a stage.

One that saved something did no harm: a cluster may take its nodes away at any time. The count of all ends a
stage whose workers cannot start. That of a shard finds one that kills its workers while others go on, as
`spark.task.maxFailures` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

MAX_LOSSES = 5  # in a row, with nothing saved in between


class Losses:
    """Counts the lost workers in a row that added no row: all of them, and those that held the same shard."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}  # by shard, at its last loss; "": what all have saved
        self._lost: Counter[str] = Counter()

    def add(self, held: Mapping[str, int], saved: int) -> str | None:
        """Counts a lost worker, by its open shards and their rows, and what all have saved.

        Returns None, or if MAX_LOSSES is reached the shard that they held, "" if they held different ones.
        """
        grown = any(rows > self._rows.get(shard, 0) for shard, rows in held.items())
        counts = {**held, "": saved}
        for name, count in counts.items():
            self._lost[name] = 0 if grown or count > self._rows.get(name, 0) else self._lost[name] + 1
        self._rows |= counts
        return next((name for name in counts if self._lost[name] == MAX_LOSSES), None)
