"""How many traces a stage will have, for its progress and its tolerable failures."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.engine.shard import Shard
from pipeline.generate.sample_plan import FAILED
from pipeline.generate.sampler import SamplingJob


class ExpectedTraces:
    """Estimates the number of traces; with adaptive sampling, from the problems that are finished.

    A group is all samples of one problem by one teacher. Problems with given traces have none.
    """

    def __init__(self, sampling: SamplingJob, pairs: Sequence[tuple[Shard, Shard]]) -> None:
        per_problem = sum(m.share is None for m in sampling.models) + any(m.share for m in sampling.models)
        self._max_samples = sampling.budget.max_samples
        self._groups = self._finished_groups = self._finished_traces = self._given = 0
        self.already_failed = 0  # in earlier commands
        for problems, traces in pairs:
            given = sampling.given(problems)
            asked = [id for id, split in problems.values("id", "split") if split == sampling.split]
            groups = per_problem * sum(id not in given for id in asked)
            in_shard = sum(len(ids) for id, ids in given.items() if id in set(asked))
            self._groups += groups
            self._given += in_shard
            if traces.sealed:
                self._finished_groups += groups
                self._finished_traces += traces.count().rows - in_shard
            if sampling.table.max_failed_fraction:
                self.already_failed += _count_failed(traces)

    def add(self, samples: int) -> None:
        """Records a finished group."""
        self._finished_groups += 1
        self._finished_traces += samples

    def total(self) -> int:
        return self._given + self.sampled()

    def sampled(self) -> int:
        finished = self._finished_groups
        per_group = self._finished_traces / finished if finished else self._max_samples
        return self._finished_traces + round((self._groups - finished) * per_group)


def _count_failed(traces: Shard) -> int:
    if traces.sealed:
        return traces.column("finish_reason").count(FAILED)
    rows = traces.read_journal(("finish_reason",)).rows.values()
    return sum(row["finish_reason"] == FAILED for row in rows)
