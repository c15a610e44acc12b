"""What a training is told and what it says: the job file and the lines of its log. Light to import.

The stage writes the job file and reads the log; `pipeline.training.sft` reads the job and writes the log.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config.training import Train
from pipeline.rows import Step

_TAIL_BYTES = 16 * 1024


class TrainJob(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str  # hub name or local folder
    examples: tuple[Path, ...]  # Parquet files of Example rows
    output: Path  # the folder of the trained model: there whole, or not at all
    checkpoints: Path  # made and resumed from; of no use once the model is there
    train: Train
    seed: int = 0

    @property
    def log(self) -> Path:
        """A Step as a JSON line for each step and each validation."""
        return self.output.parent / "log.jsonl"

    @property
    def refusal(self) -> Path:
        """Written when the training is refused: why, in one line. A launcher loses the exit code."""
        return self.output.parent / "refused.txt"

    @property
    def cache(self) -> Path:
        """Examples as tokens, so that they need not fit into memory; of no use once the model is there."""
        return self.output.parent / "cache"


def read_steps(log: Path) -> list[Step]:
    """All steps of a log. A line torn by a kill is not one."""
    return list(_steps(log, whole=True))


def last_step(log: Path) -> Step | None:
    """The newest step, from the end of the log alone."""
    return next(reversed(list(_steps(log, whole=False))), None)


def _steps(log: Path, whole: bool) -> Iterator[Step]:
    if not log.exists():
        return
    with log.open("rb") as file:
        if not whole:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        for line in file:
            with contextlib.suppress(ValidationError):  # torn, or cut by where we began to read
                yield Step.model_validate_json(line)
