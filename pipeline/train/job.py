"""The files through which the stage and the training process talk: job, preflight report, step log.

The stage writes the job file; the training process reads it and writes the others. Light to import.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.config.endpoints import Endpoint
from pipeline.config.mix import ThinkingSwitch
from pipeline.config.train import KDTeacher, Train
from pipeline.engine.progress import plain
from pipeline.hardware import computes_bf16
from pipeline.model_rows import Step
from pipeline.train.objectives import OBJECTIVES, ObjectiveSpec
from pipeline.train.process_job import ProcessJob

_TAIL_BYTES = 16 * 1024


def in_bf16(train: Train) -> bool:
    """Whether matrix products run in bfloat16: as the recipe says, else where this machine supports it."""
    return computes_bf16() if train.precision == "auto" else train.precision == "bf16"


class TrainJob(BaseModel):
    """Everything a training process needs to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str  # hub name or local folder
    examples: tuple[Path, ...]  # Parquet files of Example rows
    output: Path  # folder of the trained model: complete, or absent
    checkpoints: Path  # deleted by the stage once the model is complete
    train: Train
    seed: int = 0
    generation: str | None = None  # of the trained student
    name: str = ""  # of the run, for trackers
    labels: tuple[Path, ...] = ()  # Parquet files of SoftLabels rows, with the names of the examples' files
    teachers: tuple[KDTeacher, ...] = ()  # hub names or folders of the models next to the student
    remote_teacher: Endpoint | None = None  # of on_policy, asked over HTTP
    reasoning: Literal["tags", "none"] = "tags"  # select.reasoning: how the examples hold reasoning
    mixed: bool = False  # whether prompts ask to think or not, since some examples do not think
    thinking_switch: ThinkingSwitch | None = None  # how they ask; None: as the student's chat template says
    served_template: str | None = None  # path or text, as vLLM takes it; None: the tokenizer's own
    quantized: Path | None = None  # an export of the student by w4a16, whose rounded weights are trained

    @property
    def bf16(self) -> bool:
        """Whether matrix products run in bfloat16, with float32 weights."""
        return in_bf16(self.train)

    @property
    def objective(self) -> ObjectiveSpec:
        return OBJECTIVES[self.train.objective]

    @property
    def file(self) -> Path:
        """This job as JSON, which the training processes read."""
        return self.output.parent / "job.json"

    @property
    def log(self) -> Path:
        """A Step as a JSON line for each optimizer step and each validation."""
        return self.output.parent / "log.jsonl"

    @property
    def adapter(self) -> Path:
        """Where LoRA adapters are saved; they are also merged into the model."""
        return self.output.parent / "adapter"

    @property
    def refusal(self) -> Path:
        """The one-line reason of a refused training: accelerate's launcher does not pass on exit codes."""
        return self.output.parent / "refused.txt"

    @property
    def preflight(self) -> Path:
        """A Preflight as JSON, written before the first step, also when one of its checks fails."""
        return self.output.parent / "preflight.json"

    @property
    def cache(self) -> Path:
        """Tokenized examples (prepare.py); deleted by the stage once the model is complete."""
        return self.output.parent / "cache"

    @property
    def prepared(self) -> Path:
        """A Prepared as JSON, written last into the cache."""
        return self.cache / "prepared.json"


class LabelJob(ProcessJob):
    """What the process that tokenizes the examples for the teacher needs to know; `model`: the student."""

    prompt: str | None  # name or path of the prompt before the answers; None: the examples' own
    examples: tuple[Path, ...]  # Parquet files of Example rows
    traces: Path  # folder of generate
    max_length: int  # longer examples are not trained on


class PreflightCheck(BaseModel):
    """One line of the preflight report."""

    model_config = ConfigDict(frozen=True)
    name: str
    value: str  # the measurement, for people
    ok: bool
    why: str = ""  # what is wrong and how to mend it, in one line; empty when ok


class Preflight(BaseModel):
    """The checks of the tokenized examples before the first step."""

    model_config = ConfigDict(frozen=True)
    checks: tuple[PreflightCheck, ...]
    examples: int  # of all splits, without those that were left out
    left_out: tuple[str, ...]  # ids of the examples over max_length
    supervised: float  # fraction of the tokens that have loss
    longest: int  # tokens, without those that were left out
    example: str  # an example decoded, loss tokens between >>> and <<<; the first faulty one if there is any
    thinking_switch: ThinkingSwitch | None = None  # of the student; None: made before it was recorded

    @property
    def failed(self) -> tuple[PreflightCheck, ...]:
        return tuple(check for check in self.checks if not check.ok)


class Prepared(BaseModel):
    """The tokenized examples, for the training processes."""

    model_config = ConfigDict(frozen=True)
    files: tuple[Path, ...]  # Arrow streams, in the order of their rows
    preflight: Preflight
    messages: list[dict[str, str]]  # the first training example
    end: int  # id of the token that ends a turn


def read_preflight(path: Path) -> Preflight | None:
    """Reads a preflight report; None while there is none."""
    return Preflight.model_validate_json(path.read_bytes()) if path.exists() else None


def preflight_lines(preflight: Preflight) -> Iterator[str]:
    """The report for people: its checks, then one example with its loss tokens marked."""
    width = max(len(check.name) for check in preflight.checks)
    yield "preflight: checks of the tokenized examples"
    for check in preflight.checks:
        yield f"  {'ok  ' if check.ok else 'FAIL'} {check.name:{width}}  {plain(check.value)}"
    if preflight.example:
        yield "  one example, tokens with loss between >>> and <<<:"
        yield from (f"    {line}" for line in plain(preflight.example).splitlines())


def read_steps(log: Path) -> list[Step]:
    """All steps of a log. An incomplete last line is skipped."""
    return list(_steps(log, whole=True))


def last_step(log: Path) -> Step | None:
    """The newest step, read from the end of the log alone."""
    return next(reversed(list(_steps(log, whole=False))), None)


def _steps(log: Path, whole: bool) -> Iterator[Step]:
    if not log.exists():
        return
    with log.open("rb") as file:
        if not whole:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        for line in file:
            with contextlib.suppress(ValidationError):  # incomplete, or split by the seek
                yield Step.model_validate_json(line)
