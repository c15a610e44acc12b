"""train: the student is fine-tuned on the examples, in a subprocess under `accelerate launch`.

What happens inside is pipeline/training/sft.py; this file says what to train, starts it, follows its log and
ends it cleanly. The same command goes on from the last checkpoint.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import models
from pipeline.child import Child
from pipeline.config import Recipe
from pipeline.config.base import Scalar, identity
from pipeline.errors import Stopped, UserError
from pipeline.machine import cores, has_gpu
from pipeline.progress import Progress
from pipeline.rows import Step
from pipeline.shard import write_atomic
from pipeline.stage import Job, Stage
from pipeline.training.job import TrainJob, last_step, read_steps

POLL = 0.5  # seconds
SAVE_GRACE = 600.0  # seconds to finish a step and save a checkpoint when asked to stop
CHECKPOINT_BYTES, MODEL_BYTES = 12, 4  # a parameter: float32 weight and two moments of Adam; the weight
MOST_CHECKPOINTS = 3  # two are kept; the oldest goes when a new one is whole

_ARGUMENT = re.compile(r"[a-z][a-z0-9_-]*")


class TrainingFailed(Stopped):
    """The training ended without a model, not by the recipe's fault as far as we know."""


def model_folder(run_dir: Path) -> Path:
    """Where the trained student is, once it is trained."""
    return run_dir / "train" / "model"


def check(recipe: Recipe) -> None:
    """Find the mistakes that need no work. Raises UserError."""
    missing = [
        m for m in ("torch", "transformers", "trl", "accelerate") if importlib.util.find_spec(m) is None
    ]
    if missing:
        raise UserError(
            f"training needs {', '.join(missing)}: run ./run.sh setup, or pip install -e '.[train]'"
        )
    train = recipe.train
    processes = int(train.accelerate.get("num_processes", 1))
    if train.batch_size % (train.micro_batch_size * processes):
        raise UserError(
            f"train.batch_size = {train.batch_size} is no multiple of micro_batch_size x processes = "
            f"{train.micro_batch_size} x {processes}"
        )
    for name in train.accelerate:
        if not _ARGUMENT.fullmatch(name):
            raise UserError(f"train.accelerate.{name}: write arguments like num_processes = 8")
    models.check(recipe.student.model)


def run(job: Job) -> dict[str, Any]:
    """Train the student, unless it is there; write its curve; the report says how it went."""
    shards = [shard.path for shard in job.inputs["select"].shards()]
    todo = TrainJob(
        model="",
        examples=tuple(path.absolute() for path in shards),
        output=model_folder(job.run_dir).absolute(),
        checkpoints=(job.run_dir / "train" / "checkpoints").absolute(),
        train=job.recipe.train,
        seed=job.recipe.seed,
    )
    if not todo.output.exists():
        _train(job, todo)
    for folder in (todo.checkpoints, todo.cache):
        shutil.rmtree(folder, ignore_errors=True)
    steps = read_steps(todo.log)
    job.output.write("steps", steps)
    return _report(steps)


def _train(job: Job, todo: TrainJob) -> None:
    examples = _training_examples(todo.examples)
    if not examples:
        raise UserError("no trace was kept for training: `retort status` shows what the filters rejected")
    steps = math.ceil(math.ceil(examples / todo.train.batch_size) * todo.train.epochs)
    todo = todo.model_copy(update={"model": models.resolve(job.recipe.student.model, job.say)})
    check_room(todo.model, todo.output.parent, math.ceil(steps / todo.train.save_steps))
    file = todo.output.parent / "job.json"
    write_atomic(file, todo.model_dump_json(indent=2).encode() + b"\n")
    todo.refusal.unlink(missing_ok=True)
    log = job.logs / "train.log"
    resumed = last_step(todo.log)
    job.say(f"training the student on {examples} examples, {steps} steps (log: {log})")
    with (
        Progress("train", steps, resumed.step if resumed else 0) as progress,
        Child(command(todo.train.accelerate, file), log, environment(todo.model), SAVE_GRACE) as child,
    ):
        try:
            _follow(child, todo.log, progress)
        except KeyboardInterrupt:
            job.say("saving a checkpoint before stopping")
            child.stop()
            raise
    if not todo.output.exists():
        if todo.refusal.exists():
            raise UserError(todo.refusal.read_text().strip())
        raise TrainingFailed(
            f"the training ended without a model; the last lines of {log}:\n{child.log_tail()}"
        )


def _follow(child: Child, log: Path, progress: Progress) -> None:
    """Show how far the training is until it ends."""
    running = True
    while running:
        running = child.poll() is None
        if (step := last_step(log)) and step.step != progress.done:
            progress.note = f"loss {step.loss:.3f}" if step.loss is not None else ""
            progress.update(done=step.step - progress.done)
        if running:
            time.sleep(POLL)


def command(arguments: Mapping[str, Scalar], job_file: Path) -> list[str]:
    """The command line: `num_processes = 8` becomes --num_processes=8, `x = true` becomes --x."""
    # Said in full, so that accelerate neither guesses nor warns; precision is the training's own to set.
    ours: dict[str, Scalar] = {
        "quiet": True,
        "num_machines": 1,
        "mixed_precision": "no",
        "dynamo_backend": "no",
    }
    if not has_gpu():
        ours |= {"cpu": True, "num_processes": 1, "num_cpu_threads_per_process": len(cores())}
    line = [sys.executable, "-m", "accelerate.commands.launch"]
    for name, value in (ours | dict(arguments)).items():
        if value is not False:
            line.append(f"--{name}" if value is True else f"--{name}={value}")
    return [*line, "-m", "pipeline.training.sft", str(job_file)]


def environment(model: str) -> dict[str, str]:
    """Ours, under what is set in the environment. A model that is here needs no network."""
    ours = {"TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1"}
    if os.path.isdir(model):
        ours["HF_HUB_OFFLINE"] = "1"
    return ours | dict(os.environ)


def check_room(model: str, folder: Path, checkpoints: int) -> None:
    """Raise UserError when checkpoints and the trained model do not fit. Of a hub name nothing is known."""
    weights = sum(path.stat().st_size for path in Path(model).glob("*.safetensors"))
    if not weights:
        return
    config = json.loads((Path(model) / "config.json").read_bytes())
    parameters = weights // (4 if config.get("dtype", config.get("torch_dtype")) == "float32" else 2)
    needed = parameters * (CHECKPOINT_BYTES * min(checkpoints, MOST_CHECKPOINTS) + MODEL_BYTES)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder}: no room to train: {needed / 1e9:.1f} GB needed for checkpoints and model, "
            f"{free / 1e9:.1f} GB free"
        )


def _training_examples(shards: tuple[Path, ...]) -> int:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    splits = (pq.read_table(path, columns=["split"])["split"] for path in shards)
    return sum(pc.sum(pc.equal(split, "train")).as_py() or 0 for split in splits)


def _report(steps: list[Step]) -> dict[str, Any]:
    if not steps:
        return {}
    losses = [s.loss for s in steps if s.loss is not None]
    validation = [s.validation_loss for s in steps if s.validation_loss is not None]
    return {
        "steps": steps[-1].steps,
        "tokens": steps[-1].tokens,
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "validation_loss": validation[-1] if validation else None,
    }


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {
        **identity(recipe.train),
        "student": recipe.student.model,
        "layers": recipe.student.layers,
        "seed": recipe.seed,
    }


TRAIN = Stage(
    name="train",
    version=1,
    row=Step,
    mirrors=None,
    reads=("select",),
    settings=_settings,
    check=check,
    run=run,
)
