"""What the stages of a run hold, with the failed samples that `max_failed_fraction` accepted."""

from __future__ import annotations

from dataclasses import replace

from pipeline.engine.shard import Counts
from pipeline.inspect.run import Run
from pipeline.rows import Trace


def counts_of(run: Run) -> dict[str, Counts]:
    """The counts of each stage. A failed sample that was accepted is a row, and counts as failed, too."""
    return {
        stage: replace(counts, failed=counts.failed + accepted(run, stage))
        for stage, counts in run.counts().items()
    }


def accepted(run: Run, stage: str) -> int:
    """The failed samples among the rows of a stage that samples; 0 for other stages."""
    return len(run.rows(stage).where(finish_reason="failed")) if run.output(stage).row is Trace else 0
