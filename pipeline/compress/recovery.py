"""Recovers quality after 4 bits: trains the rounded weights of an export to answer as the whole student.

The training is that of the stage train, with its checkpoints, so a stopped one resumes. An export that the
training did not bring nearer to the whole student stays as it was.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

from pipeline.compress import exports
from pipeline.config import Recipe
from pipeline.config.compress import Recovery
from pipeline.config.train import KDTeacher, LogitKD, Train
from pipeline.engine.atomic_files import write_atomic
from pipeline.engine.stage import Job
from pipeline.errors import UserError, user_error
from pipeline.model_rows import Recovered
from pipeline.select.spaced import chosen
from pipeline.train import comparison, launcher
from pipeline.train import stage as training
from pipeline.train.comparison import Compared, CompareJob, Dialogue, Likeness
from pipeline.train.job import TrainJob, read_steps

NAME = "recovery"  # of its folder and logs
MEASURED = 128  # examples
_MADE_FROM = "made_from.json"


def check(recipe: Recipe) -> None:
    """Raises UserError where the student cannot be trained here."""
    with user_error("compress.recovery", UserError):
        training.check_environment(as_trained(recipe))
    if launcher.placement(recipe.train.accelerate).count > 1:
        raise UserError("compress.recovery trains on one machine: run `retort compress` on one, without srun")


def as_trained(recipe: Recipe) -> Recipe:
    """The recipe as if its own training were that of the recovery, next to the whole student."""
    assert recipe.student is not None, "only a student is compressed"
    assert recipe.compress.recovery is not None, "asked only where there is one"
    train = _train(recipe.train, recipe.compress.recovery)
    beside = LogitKD(teachers=(KDTeacher(model=recipe.student.model),))
    return recipe.model_copy(update={"train": train.model_copy(update={"logit_kd": beside})})


def recover(job: Job, settings: Recovery, export: Path) -> Recovered:
    """Trains the weights of an export, a folder, and replaces its files if that brought it nearer."""
    folder = job.output.folder / NAME
    given = training.job_of(job, None)
    student = str(training.model_folder(job.run_dir).absolute())
    train_job = given.model_copy(
        update={
            "model": student,
            "output": (folder / "model").absolute(),
            "checkpoints": (folder / "checkpoints").absolute(),
            "train": _train(given.train, settings),
            "teachers": (KDTeacher(model=student),),
            "quantized": export.absolute(),
        }
    )
    _clear_unless(folder, job)
    if not train_job.output.exists():
        training.train(job, train_job, f"compress-{NAME}")
    found = _measured(job, train_job, export)
    if found.kept:
        shutil.copytree(train_job.output, export, dirs_exist_ok=True)
    else:
        job.say("the recovery brought nothing: the export before it is kept")
    shutil.rmtree(folder)
    return found


def goes_on(job: Job) -> bool:
    """Whether a training was stopped here, whose export is whole and need not be made again."""
    folder = job.output.folder / NAME
    return _is_of(folder, job) and not (folder / "model").exists()


def _is_of(folder: Path, job: Job) -> bool:
    """Whether the folder is that of a recovery of this student, with these settings."""
    made_from = folder / _MADE_FROM
    return made_from.is_file() and made_from.read_bytes() == _wanted(job)


def _wanted(job: Job) -> bytes:
    return json.dumps(exports.made_from_job(job, "w4a16")).encode()


def _clear_unless(folder: Path, job: Job) -> None:
    """Empties the folder of a killed recovery of another student or of other settings."""
    if not _is_of(folder, job):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_atomic(folder / _MADE_FROM, _wanted(job))


def _train(table: Train, settings: Recovery) -> Train:
    """The training's settings, with the forward KL from the whole student as the only loss."""
    off = dict.fromkeys(("lora", "features", "attention_transfer", "relations", "weight_by"))
    changes = {"objective": "logit_kd", "logit_kd": LogitKD(), "trl": {}, **off, **settings.model_dump()}
    return table.model_copy(update=changes)


def _measured(job: Job, train_job: TrainJob, export: Path) -> Recovered:
    """How like the whole student the export is before and after, on validation examples if there are any."""
    split: Literal["validation", "train"] = "validation"
    if not (messages := list(chosen(job.inputs["select"], MEASURED, split))):
        split = "train"
        messages = list(chosen(job.inputs["select"], MEASURED, split))
    dialogues = [
        Dialogue.model_validate({"id": f"{split} example {n}", "messages": dialogue})
        for n, dialogue in enumerate(messages)
    ]
    compare_job = CompareJob(
        model=train_job.model,
        others=tuple(Compared(model=train_job.model, quantized=q) for q in (export, train_job.output)),
        temperature=1,
        bf16=train_job.bf16,
        cache=train_job.output.parent / "comparison",
    )
    log = job.logs / f"compress-{NAME}-comparison.log"
    before, after = comparison.compare(compare_job, dialogues, log)
    tokens = sum(each.tokens for each in before)

    def mean(of: list[Likeness], name: str) -> float:
        return float(sum(getattr(each, name) for each in of) / tokens)

    found = Recovered(
        steps=max(step.step for step in read_steps(train_job.log)),
        measured_on=split,
        examples=len(dialogues),
        divergence_before=mean(before, "divergence"),
        divergence=mean(after, "divergence"),
        same_before=mean(before, "same"),
        same=mean(after, "same"),
        kept=mean(after, "divergence") < mean(before, "divergence"),
    )
    job.say(
        f"recovery: KL from the whole student {found.divergence_before:.4f} -> {found.divergence:.4f} nats "
        f"per token, same likeliest token {found.same_before:.1%} -> {found.same:.1%} ({split} examples)"
    )
    return found
