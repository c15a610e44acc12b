"""The train stage: fine-tunes the student in a subprocess under `accelerate launch`.

This file decides what to train, starts the process, follows its log and ends it cleanly; the process runs
trainer/prepare.py and trainer/launch.py. The same command resumes from the last checkpoint. On several nodes
this is node 0; follower.py is the others.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import generations, install_hints
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.endpoints import Student
from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.progress import Progress
from pipeline.engine.query import query
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Place, Stage
from pipeline.engine.store import Output
from pipeline.engine.subprocess_guard import Child
from pipeline.errors import Stopped, UserError
from pipeline.generate.stage import GENERATE
from pipeline.inference import model_files
from pipeline.inference.fingerprint import model_settings
from pipeline.inference.pruning import pruning_of
from pipeline.model_rows import Step
from pipeline.select.stage import SELECT
from pipeline.train import checkpoints, generation, labels, launcher, memory, nodes, trl_arguments
from pipeline.train.job import TrainJob, last_step, preflight_lines, read_preflight, read_steps
from pipeline.train.objectives import OBJECTIVES, remote_teacher, teachers, without_endpoints
from pipeline.train.report import report
from pipeline.train.sample_watch import SampleWatch

POLL_SECONDS = 0.5
STOP_TIMEOUT = 600.0  # seconds to finish a step and save a checkpoint after SIGTERM
LOST_TIMEOUT = 30.0  # the same when another node is lost: processes that wait for it never end
LAST_WORDS = 3.0  # seconds in which other nodes may say why they failed


class TrainingFailed(Stopped):
    """The training process ended without a model and without naming a mistake in the recipe."""


def model_folder(run_dir: Path) -> Path:
    """The folder of the trained student."""
    return run_dir / "train" / "model"


def student_of(recipe: Recipe) -> Student:
    """The model to train. Raises UserError where the recipe names none."""
    if recipe.student is None:
        raise UserError("train needs a student: a table [student] with model = ... in the recipe")
    return recipe.student


def check(recipe: Recipe) -> None:
    """Checks everything that can be known before any work. Raises UserError."""
    check_environment(recipe)
    trl_arguments.check(recipe.train)
    student = student_of(recipe)
    generation.check(recipe)
    model_files.check(student.model, pruning_of(student))
    for teacher in teachers(recipe):
        model_files.check(teacher.model)
    labels.check(recipe)


def check_environment(recipe: Recipe) -> None:
    """Raises UserError where libraries are missing, or accelerate cannot start what the recipe says."""
    libraries = ("torch", "transformers", "trl", "accelerate")
    missing = [name for name in libraries if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"training needs {', '.join(missing)}: {install_hints.extra('train')}")
    launcher.check(recipe)


def work(job: Job, shards: Iterable[Shard]) -> None:
    """Trains the student unless its folder exists, and writes the step log as rows of the only shard."""
    train_job = job_of(job, job.prepared)
    if not train_job.output.exists():
        found = generation.of_student(job.recipe, job.inputs, _start_of(job))
        job.say(f"train: the student will be of generation {generations.words(found)}")
        train(job, _with_models(job, train_job).model_copy(update={"generation": found}))
    for folder in (train_job.checkpoints, train_job.cache):
        shutil.rmtree(folder, ignore_errors=True)
    for shard in shards:
        shard.write(step.model_dump() for step in read_steps(train_job.log))


def work_on_node(job: Job, place: Place) -> None:
    """Trains as one of several nodes. Node 0 does the stage's work, the others follow it."""
    from pipeline.train.follower import follow  # which imports this module

    recipe = launcher.placed(job.recipe, place)
    if place.rank:
        follow(recipe, job.run_dir, launcher.placement(recipe.train.accelerate))
        return
    check(recipe)
    work(replace(job, recipe=recipe), job.share())


def saved(job: Job) -> int:
    """The step of the newest checkpoint; 0 before the first."""
    return checkpoints.steps_saved(_checkpoints(job))


def _checkpoints(job: Job) -> Path:
    return (job.run_dir / "train" / "checkpoints").absolute()


def job_of(job: Job, soft_labels: Output | None) -> TrainJob:
    """The job, but for models: they are resolved only when there is something to train."""
    outputs, remote = (job.inputs["select"], soft_labels), remote_teacher(job.recipe)
    examples, of_labels = (tuple(s.path.absolute() for s in o.shards()) if o else () for o in outputs)
    return TrainJob(
        model="",
        examples=examples,
        labels=of_labels,
        output=model_folder(job.run_dir).absolute(),
        checkpoints=_checkpoints(job),
        train=without_endpoints(job.recipe.train),
        remote_teacher=remote and remote.model_copy(update={"env": {}}),
        seed=_seed(job.recipe),
        name=job.recipe.run,
        reasoning=job.recipe.select.reasoning,
        mixed=bool(job.recipe.select.mix),
        thinking_switch=job.recipe.select.thinking_switch if job.recipe.select.mix else None,
        served_template=served_template(job.recipe),
    )


def _seed(recipe: Recipe) -> int:
    return recipe.seed if recipe.train.seed is None else recipe.train.seed


def served_template(recipe: Recipe) -> str | None:
    """The chat template that vLLM will serve the student with, where it is not the tokenizer's own."""
    engine = student_of(recipe).vllm
    template = engine.get("chat_template", engine.get("chat-template"))
    return None if template is None else str(template)


def train(job: Job, train_job: TrainJob, name: str = "train") -> None:
    """Trains a model, from its last checkpoint if there is one. `name`: of the log and the progress.

    Raises UserError for a mistake of the recipe, Stopped for other failures.
    """
    examples = _training_examples(train_job)
    if not examples and train_job.objective.pairs:
        raise UserError("no pair to train on: no example has an incorrect trace of its problem")
    if not examples:
        raise UserError("no example to train on: `retort select` reports what became of the traces")
    steps = math.ceil(math.ceil(examples / train_job.train.batch_size) * train_job.train.epochs)
    folder = train_job.output.parent
    check_room(train_job, folder, math.ceil(steps / train_job.train.save_steps))
    content = train_job.model_dump_json(indent=2).encode() + b"\n"
    write_atomic(train_job.file, content)
    for stale in (train_job.refusal, train_job.preflight, train_job.prepared):
        stale.unlink(missing_ok=True)
    checkpoints.remove_incomplete(train_job.checkpoints, job.say)
    log = job.logs / f"{name}.log"
    resumed = last_step(train_job.log)
    job.say(f"training the student on {examples} examples, {steps} steps (log: {log})")
    place = launcher.placement(train_job.train.accelerate)
    command = launcher.command(train_job.train.accelerate | place.arguments, train_job.file)
    with (
        nodes.Driver(place, nodes.digest(content)) as others,
        Progress(name, steps, resumed.step if resumed else 0) as progress,
        Child(command, log, launcher.environment(train_job), STOP_TIMEOUT) as child,
    ):
        try:
            _follow(child, train_job, progress, job.say, others)
        except KeyboardInterrupt:
            job.say("saving a checkpoint before stopping")
            child.stop()
            raise
        if not train_job.output.exists():
            if train_job.refusal.exists():
                raise UserError(train_job.refusal.read_text("utf-8").strip())
            time.sleep(LAST_WORDS if place.count > 1 else 0)
            raise TrainingFailed(
                others.fault()
                or f"the training ended without a model; the last lines of {log}:\n{child.log_tail()}"
            )


def _start_of(job: Job) -> str:
    """The model with whose weights the training starts: the recipe's, or the student of the run before."""
    parent = job.recipe.parent
    if parent and parent.start:
        return str(model_folder(job.run_dir.parent / parent.run).absolute())
    return student_of(job.recipe).model


def _with_models(job: Job, train_job: TrainJob) -> TrainJob:
    """The job with hub names or folders of student and teachers; may convert or prune a model."""
    resolved = tuple(
        teacher.model_copy(update={"model": model_files.resolve(teacher.model, job.say)})
        for teacher in teachers(job.recipe)
    )
    student, start = student_of(job.recipe), _start_of(job)
    pruning = pruning_of(student, job.run_dir) if start == student.model else None
    model = model_files.resolve(start, job.say, pruning)
    return train_job.model_copy(update={"model": model, "teachers": resolved})


def _follow(
    child: Child, train_job: TrainJob, progress: Progress, say: Callable[[str], None], others: nodes.Driver
) -> None:
    """Shows the preflight report, then the progress of the training until it ends on all nodes.

    Raises Stopped when another node fails.
    """
    running, shown, watch = True, False, SampleWatch(say)
    while running:
        running = child.poll() is None
        if not shown and (preflight := read_preflight(train_job.preflight)):
            shown = True
            for line in preflight_lines(preflight):
                say(line)
        if (step := last_step(train_job.log)) and step.step != progress.done:
            progress.note = watch.note(step)
            progress.update(done=step.step - progress.done)
        if running:
            if train_job.prepared.exists():
                others.start()
            if why := others.fault():
                child.stop(LOST_TIMEOUT)
                raise Stopped(why)
            time.sleep(POLL_SECONDS)


def check_room(train_job: TrainJob, folder: Path, most: int) -> None:
    """Raises UserError when checkpoints and model do not fit on the disk. Hub names are not checked."""
    if not Path(train_job.model).is_dir() or (sizes := model_files.sizes(train_job.model)) is None:
        return
    config, weights = sizes
    width = 4 if config.get("dtype", config.get("torch_dtype")) == "float32" else 2
    needed = memory.disk(weights // width, train_job.train, most)
    if (free := shutil.disk_usage(folder).free + checkpoints.room(train_job.checkpoints)) < needed:
        raise UserError(
            f"{folder}: not enough disk space to train: {needed / 1e9:.1f} GB needed for checkpoints and "
            f"model, {free / 1e9:.1f} GB free"
        )


def _training_examples(train_job: TrainJob) -> int:
    wanted = " and rejected is not null" if train_job.objective.pairs else ""
    condition = f"select count(*) from rows where split = 'train'{wanted}"
    counts = query(train_job.examples, ["split", "rejected"], condition)
    return counts[0][0] if counts else 0


def _settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that change what is learned; of the objectives' tables only the chosen one's."""
    unused = OBJECTIVES.keys() - {recipe.train.objective} | (set() if recipe.train.trl else {"trl"})
    student, batch, remote = student_of(recipe), {}, remote_teacher(recipe)
    if recipe.train.relations:  # compares the examples that are in memory at once
        processes = launcher.processes_of(recipe)
        batch = {"relation_batch": recipe.train.micro_batch_size * processes}
    return {
        **batch,
        **{name: value for name, value in identity(recipe.train).items() if name not in unused},
        "teachers": [t.model_dump() | model_files.content(t.model) for t in teachers(recipe)],
        "student": student.model,
        "layers": student.layers,
        **model_files.content(student.model),
        **(pruning.settings if (pruning := pruning_of(student)) else {}),
        "seed": _seed(recipe),
        **({"thinking_switch": recipe.select.thinking_switch} if recipe.select.mix else {}),
        **({"start": recipe.parent.model_dump()} if recipe.parent and recipe.parent.start else {}),
        **({"labels": labels.settings(recipe)} if labels.wanted(recipe) else {}),
        **({"remote_teacher": model_settings(remote.model, remote)} if remote else {}),
    }


TRAIN = Stage(
    name="train",
    version=7,  # 7: on_policy makes every step; "constant" has its warmup
    row=Step,
    reads=(GENERATE, SELECT),
    shards=("steps",),
    settings=_settings,
    check=check,
    prepare=labels.prepare,
    work=work,
    work_on_node=work_on_node,
    saved=saved,
    report=report,
    substages=labels.stages,
)
