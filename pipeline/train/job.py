"""What a training is told and what it says: the job file, the preflight's table, the log. Light to import.

The stage writes the job file and reads the others; the training reads the job and writes the others.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config.training import KDTeacher, Train
from pipeline.hardware import computes_bf16
from pipeline.rows import Step

_TAIL_BYTES = 16 * 1024


def in_bf16(train: Train) -> bool:
    """Whether matrix products run in bfloat16, as the recipe says or as this machine can."""
    return computes_bf16() if train.precision == "auto" else train.precision == "bf16"


class TrainJob(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str  # hub name or local folder
    examples: tuple[Path, ...]  # Parquet files of Example rows
    output: Path  # the folder of the trained model: there whole, or not at all
    checkpoints: Path  # made and resumed from; of no use once the model is there
    train: Train
    seed: int = 0
    name: str = ""  # of the run, for trackers
    traces: tuple[Path, ...] = ()  # Parquet files of the Trace rows that the examples were made of
    teachers: tuple[KDTeacher, ...] = ()  # models as `model` is one, for online and on_policy
    reasoning: Literal["tags", "none"] = "tags"  # what the examples teach, as select.reasoning says
    served_template: str | None = None  # path or text, as vLLM takes it, when it is served with another

    @property
    def bf16(self) -> bool:
        """Whether matrix products run in bfloat16, over float32 weights."""
        return in_bf16(self.train)

    @property
    def log(self) -> Path:
        """A Step as a JSON line for each step and each validation."""
        return self.output.parent / "log.jsonl"

    @property
    def adapter(self) -> Path:
        """Where the adapters are left, when such were trained; the model has them merged."""
        return self.output.parent / "adapter"

    @property
    def refusal(self) -> Path:
        """Written when the training is refused: why, in one line. A launcher loses the exit code."""
        return self.output.parent / "refused.txt"

    @property
    def preflight(self) -> Path:
        """A Preflight as JSON: written before the first step, and before a refusal by one of its checks."""
        return self.output.parent / "preflight.json"

    @property
    def cache(self) -> Path:
        """Examples as tokens (prepare.py); of no use once the model is there."""
        return self.output.parent / "cache"

    @property
    def prepared(self) -> Path:
        """Written last into the cache: a Prepared as JSON."""
        return self.cache / "prepared.json"


class Check(BaseModel):
    """One line of the preflight's table."""

    model_config = ConfigDict(frozen=True)
    name: str
    value: str  # what was seen, for people
    ok: bool
    why: str = ""  # what is wrong and what would be right, in one line; empty when ok


class Preflight(BaseModel):
    """What was looked at before the first step: everything that TRL made of the examples."""

    model_config = ConfigDict(frozen=True)
    checks: tuple[Check, ...]
    examples: int  # of all splits, those left out not among them
    left_out: tuple[str, ...]  # ids of those that were too long
    supervised: float  # share of the tokens that have loss
    longest: int  # tokens, those left out not among them
    example: str  # one of them decoded, what is learned between >>> and <<<; the first faulty one if any is

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.ok)


class Prepared(BaseModel):
    """The examples as tokens, as training processes load them."""

    model_config = ConfigDict(frozen=True)
    files: tuple[Path, ...]  # Arrow streams, in the order of their rows
    table: Preflight
    messages: list[dict[str, str]]  # the first training example
    end: int  # the token that ends an answer


def read_preflight(path: Path) -> Preflight | None:
    """The table, None before there is one."""
    return Preflight.model_validate_json(path.read_bytes()) if path.exists() else None


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
