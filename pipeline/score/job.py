"""The file through which the stage `score` and its process talk. Light to import."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.config.score import Scoring
from pipeline.rows import TraceScore
from pipeline.train.process_job import ProcessJob


class ScoreJob(ProcessJob):
    """What the process that reads the traces needs to know."""

    bf16: bool
    settings: Scoring
    reasoning: Literal["tags", "none"]  # select.reasoning
    prompt: str  # name or path, as select.prompt
    traces: Path  # folder of generate
    verdicts: Path  # folder of filter
    shards: tuple[str, ...]  # names, in the order in which they are read

    def scores(self, shard: str) -> Path:
        """A ShardScores as JSON."""
        return self.cache / f"shard-{shard}.json"


class ShardScores(BaseModel):
    """The rows of a shard, and what became of its kept traces.

    kept = scored + too_long + without_reasoning + without_answer.
    """

    model_config = ConfigDict(frozen=True)
    rows: tuple[TraceScore, ...]
    counts: dict[str, int]
