"""train: the student is fine-tuned on the examples, in a subprocess under `accelerate launch`.

What happens inside is pipeline/train/trainer/launch.py; this file says what to train, starts it, follows its
log and ends it cleanly. The same command goes on from the last checkpoint.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline import install_hints
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.endpoints import Student
from pipeline.config.training import Train
from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.progress import Progress, plain
from pipeline.engine.stage import Job, Stage
from pipeline.engine.subprocess_guard import Child
from pipeline.errors import Stopped, UserError
from pipeline.filter import funnel
from pipeline.inference import model_files
from pipeline.rows import Step
from pipeline.train import checkpoints, launcher
from pipeline.train.job import Preflight, TrainJob, last_step, read_preflight, read_steps

POLL = 0.5  # seconds
SAVE_GRACE = 600.0  # seconds to finish a step and save a checkpoint when asked to stop
CHECKPOINT_BYTES, MODEL_BYTES = 12, 4  # a parameter: float32 weight and two moments of Adam; the weight
MOST_CHECKPOINTS = 3  # two are kept; the oldest goes when a new one is whole


class TrainingFailed(Stopped):
    """The training ended without a model, not by the recipe's fault as far as we know."""


def model_folder(run_dir: Path) -> Path:
    """Where the trained student is, once it is trained."""
    return run_dir / "train" / "model"


def student_of(recipe: Recipe) -> Student:
    """The model to train. Raises UserError where the recipe names none."""
    if recipe.student is None:
        raise UserError("train needs a student: a table [student] with model = ... in the recipe")
    return recipe.student


def check(recipe: Recipe) -> None:
    """Find the mistakes that need no work. Raises UserError."""
    missing = [
        m for m in ("torch", "transformers", "trl", "accelerate") if importlib.util.find_spec(m) is None
    ]
    if missing:
        raise UserError(f"training needs {', '.join(missing)}: {install_hints.extra('train')}")
    launcher.check(recipe)
    student = student_of(recipe)
    model_files.check(student.model, student.layers)
    for teacher in launcher.teachers(recipe):
        model_files.check(teacher.model)


def run(job: Job) -> dict[str, Any]:
    """Train the student, unless it is there; write its curve; the report says how it went."""
    shards, traces = (
        [shard.path.absolute() for shard in job.inputs[name].shards()] for name in ("select", "filter")
    )
    todo = TrainJob(
        model="",
        examples=tuple(shards),
        traces=tuple(traces),
        output=model_folder(job.run_dir).absolute(),
        checkpoints=(job.run_dir / "train" / "checkpoints").absolute(),
        train=job.recipe.train,
        seed=job.recipe.seed,
        name=job.recipe.run,
        reasoning=job.recipe.select.reasoning,
        served_template=served_template(job.recipe),
    )
    if not todo.output.exists():
        _train(job, todo)
    for folder in (todo.checkpoints, todo.cache):
        shutil.rmtree(folder, ignore_errors=True)
    steps = read_steps(todo.log)
    job.output.write("steps", steps)
    return _report(steps, read_preflight(todo.preflight))


def served_template(recipe: Recipe) -> str | None:
    """The chat template that evaluation will ask the student by, where it is not its tokenizer's own."""
    engine = student_of(recipe).vllm
    template = engine.get("chat_template", engine.get("chat-template"))
    return None if template is None else str(template)


def _train(job: Job, todo: TrainJob) -> None:
    examples = _training_examples(todo.examples)
    if not examples:
        raise UserError("there is no example to train on: `retort select` says what became of the traces")
    steps = math.ceil(math.ceil(examples / todo.train.batch_size) * todo.train.epochs)
    resolved = [
        teacher.model_copy(update={"model": model_files.resolve(teacher.model, job.say)})
        for teacher in launcher.teachers(job.recipe)
    ]
    student = student_of(job.recipe)
    model = model_files.resolve(student.model, job.say, student.layers)
    todo = todo.model_copy(update={"model": model, "teachers": tuple(resolved)})
    check_room(todo.model, todo.output.parent, math.ceil(steps / todo.train.save_steps))
    file = todo.output.parent / "job.json"
    write_atomic(file, todo.model_dump_json(indent=2).encode() + b"\n")
    for old in (todo.refusal, todo.preflight):
        old.unlink(missing_ok=True)
    checkpoints.tidy(todo.checkpoints, job.say)
    log = job.logs / "train.log"
    resumed = last_step(todo.log)
    job.say(f"training the student on {examples} examples, {steps} steps (log: {log})")
    with (
        Progress("train", steps, resumed.step if resumed else 0) as progress,
        Child(
            launcher.command(todo.train.accelerate, file), log, launcher.environment(todo), SAVE_GRACE
        ) as child,
    ):
        try:
            _follow(child, todo, progress, job.say)
        except KeyboardInterrupt:
            job.say("saving a checkpoint before stopping")
            child.stop()
            raise
    if not todo.output.exists():
        if todo.refusal.exists():
            raise UserError(todo.refusal.read_text("utf-8").strip())
        raise TrainingFailed(
            f"the training ended without a model; the last lines of {log}:\n{child.log_tail()}"
        )


def _follow(child: Child, todo: TrainJob, progress: Progress, say: Callable[[str], None]) -> None:
    """Show the preflight's table, then how far the training is until it ends."""
    running, told = True, False
    while running:
        running = child.poll() is None
        if not told and (table := read_preflight(todo.preflight)):
            told = True
            for line in preflight_lines(table):
                say(line)
        if (step := last_step(todo.log)) and step.step != progress.done:
            progress.note = f"loss {step.loss:.3f}" if step.loss is not None else ""
            progress.update(done=step.step - progress.done)
        if running:
            time.sleep(POLL)


def preflight_lines(table: Preflight) -> Iterator[str]:
    """The table for people: its checks, then the example with what is learned marked."""
    width = max(len(check.name) for check in table.checks)
    yield "preflight: what the student would learn from"
    for check in table.checks:
        yield f"  {'ok  ' if check.ok else 'FAIL'} {check.name:{width}}  {plain(check.value)}"
    if table.example:
        yield "  one example, what is learned between >>> and <<<:"
        yield from (f"    {line}" for line in plain(table.example).splitlines())


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
    batches = funnel.batches(shards, ["split"])
    return sum(batch.column("split").to_pylist().count("train") for batch in batches)


def _report(steps: list[Step], looked: Preflight | None) -> dict[str, Any]:
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
        "preflight": looked
        and {
            "examples": looked.examples,
            "left_out": len(looked.left_out),
            "supervised": round(looked.supervised, 4),
            "longest": looked.longest,
        },
    }


def _learning(train: Train) -> dict[str, Any]:
    """The settings that change what is learned; of the objectives those of the one that is used."""
    unused = {"topk_kd", "logit_kd", "on_policy"} - {train.objective}
    return {name: value for name, value in identity(train).items() if name not in unused}


def _settings(recipe: Recipe) -> dict[str, Any]:
    named = [teacher.model_dump() for teacher in launcher.teachers(recipe)]
    return {
        **_learning(recipe.train),
        "teachers": named,
        "student": student_of(recipe).model,
        "layers": student_of(recipe).layers,
        "seed": recipe.seed,
    }


TRAIN = Stage(
    name="train",
    version=3,  # 3: no example comes twice in an epoch of several processes; validation is the loss a token
    row=Step,
    shards_from=None,
    reads=("filter", "select"),
    settings=_settings,
    check=check,
    run=run,
    tables=("train", "student"),
)
