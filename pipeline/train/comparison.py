"""Compares how models predict the same texts, in a process of its own: trainer/compare.py.

The stages `compress` and `evaluate` call it. Light to import.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.subprocess_guard import Child
from pipeline.errors import Stopped
from pipeline.inference import model_files
from pipeline.rows import Message
from pipeline.train.process_job import ProcessJob


class Dialogue(BaseModel):
    """A text to read; only the last message counts."""

    model_config = ConfigDict(frozen=True)
    id: str
    messages: tuple[Message, ...]


class Compared(BaseModel):
    """A model that is compared with the first."""

    model_config = ConfigDict(frozen=True)
    model: str  # hub name or folder
    quantized: Path | None = None  # a folder as w4a16 makes them, whose weights replace the model's


class CompareJob(ProcessJob):
    """What the process needs to know; `model`: the one whose predictions are p."""

    others: tuple[Compared, ...]  # of each the predictions are q
    temperature: float  # of both; 0: all probability on the likeliest token
    bf16: bool

    @property
    def dialogues(self) -> Path:
        """A Dialogue as a JSON line for each text."""
        return self.cache / "dialogues.jsonl"

    @property
    def result(self) -> Path:
        """The Likenesses of each of the others, as JSON."""
        return self.cache / "result.json"


class Likeness(BaseModel):
    """How alike two models predict one text; sums over its tokens."""

    model_config = ConfigDict(frozen=True)
    id: str
    tokens: int
    overlap: float  # sum over the vocabulary of min(p, q)
    divergence: float  # KL(p || q), in nats, at temperature 1
    same: int  # tokens at which both find the same token likeliest


def compare(job: CompareJob, dialogues: Iterable[Dialogue], log: Path) -> list[list[Likeness]]:
    """How each of the others is like the model on each text. Raises UserError or Stopped."""
    shutil.rmtree(job.cache, ignore_errors=True)
    job.cache.mkdir(parents=True)
    lines = (dialogue.model_dump_json() + "\n" for dialogue in dialogues)
    write_atomic(job.dialogues, "".join(lines).encode())
    write_atomic(job.file, job.model_dump_json(indent=2).encode())
    command = [sys.executable, "-P", "-m", "pipeline.train.trainer.compare", str(job.file.absolute())]
    environment = model_files.environment(job.model, *(other.model for other in job.others))
    with Child(command, log, environment) as child:
        child.wait()
        job.check_refusal()
        if not job.result.exists():
            raise Stopped(
                f"the comparison of models ended early; the last lines of {log}:\n{child.log_tail()}"
            )
    found = json.loads(job.result.read_bytes())
    shutil.rmtree(job.cache)
    return [[Likeness.model_validate(each) for each in of_one] for of_one in found]
