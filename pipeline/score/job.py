"""The file through which the stage `score` and its process talk. Light to import."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.config.score import Scoring
from pipeline.rows import TraceScore


class ScoreJob(BaseModel):
    """What the process that reads the traces needs to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str  # hub name or folder
    bf16: bool
    settings: Scoring
    reasoning: Literal["tags", "none"]  # select.reasoning
    prompt: str  # name or path, as select.prompt
    traces: Path  # folder of generate
    verdicts: Path  # folder of filter
    shards: tuple[str, ...]  # names, in the order in which they are read
    cache: Path  # a ShardScores as JSON for each shard, NAME.json

    @property
    def file(self) -> Path:
        """This job as JSON."""
        return self.cache / "job.json"

    @property
    def refusal(self) -> Path:
        """The one-line reason why the process refused."""
        return self.cache / "refused.txt"

    def scores(self, shard: str) -> Path:
        return self.cache / f"shard-{shard}.json"


class ShardScores(BaseModel):
    """The rows of a shard, and what became of its kept traces.

    kept = scored + too_long + without_reasoning + without_answer.
    """

    model_config = ConfigDict(frozen=True)
    rows: tuple[TraceScore, ...]
    counts: dict[str, int]
