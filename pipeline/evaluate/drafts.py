"""What models are worth as drafts of a teacher in speculative decoding, computed without serving any.

A draft proposes tokens, and the teacher accepts each with probability sum_x min(p(x), q(x)), where p and q
are the distributions of teacher and draft (Leviathan et al. 2022, arXiv 2211.17192, theorem 3.5). Both read
the teacher's own answers to the problems of a set, one for each problem, after the teacher's prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import prompts
from pipeline.compress.stage import COMPRESS
from pipeline.config import Recipe
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.evaluate.models import EvalModel, eval_models
from pipeline.hardware import computes_bf16
from pipeline.inference import model_files
from pipeline.model_rows import DraftScore
from pipeline.rows import Trace
from pipeline.select.chat_format import messages
from pipeline.train import comparison
from pipeline.train.comparison import Compared, CompareJob, Dialogue
from pipeline.train.stage import TRAIN, model_folder

KIND = "drafts"


def wanted(recipe: Recipe) -> bool:
    return recipe.evaluate.draft_tokens is not None


def check(recipe: Recipe) -> None:
    """Raises UserError where drafts cannot be measured."""
    setting = "evaluate.draft_tokens"
    if recipe.student is None or not recipe.teacher:
        raise UserError(f"{setting} compares a student with its teacher: the recipe needs both tables")
    if not any(models for _, models in _pairs(recipe, Path())):
        raise UserError(
            f'{setting} compares answers of the teacher: evaluate.models needs "teacher", and "base" or '
            '"student" asked to reason'
        )
    model_files.check_libraries(setting, ("torch", "transformers"))
    for teacher in recipe.teacher:
        if teacher.serve is None:
            raise UserError(
                f"{setting} needs the weights of the teacher {teacher.display_name}, which is reached by its "
                'URL: set teacher.serve = "vllm" in place of base_url, or leave out the setting'
            )


def stages(recipe: Recipe, run_dir: Path, sampled: Callable[[EvalModel], Stage]) -> Iterator[Stage]:
    """The stages that measure the drafts of each teacher on each set. `sampled`: the stage of its answers."""
    for teacher, drafts in _pairs(recipe, run_dir):
        yield Stage(
            name=teacher.folder(KIND),
            version=1,
            row=DraftScore,
            reads=(sampled(teacher), TRAIN),
            shards=("scores",),
            settings=partial(_settings, teacher, drafts),
            check=check,
            work=partial(_work, teacher, drafts),
            one_worker=True,
            free=True,
        )


def check_vocabularies(job: Job) -> None:
    """Raises UserError where a draft has another vocabulary than its teacher. Loads no weights."""
    for teacher, drafts in _pairs(job.recipe, job.run_dir):
        comparison.compare(_compare_job(teacher, drafts, job), [], job.logs / f"{KIND}.log")


def _pairs(recipe: Recipe, run_dir: Path) -> Iterator[tuple[EvalModel, list[EvalModel]]]:
    """Each teacher on each set, with its drafts; none unless they are wanted."""
    models = eval_models(recipe, run_dir) if wanted(recipe) else []
    for teacher in models:
        if teacher.role.startswith("teacher"):
            yield teacher, [model for model in models if model.set == teacher.set and _is_draft(model)]


def _is_draft(model: EvalModel) -> bool:
    """Base, student, and the form whose weights alone are rounded: the others do not compute as a server."""
    return model.mode == "reasoning" and (
        model.role == "base" or (model.trained and model.scheme in (None, "w4a16"))
    )


def _settings(teacher: EvalModel, drafts: Sequence[EvalModel], recipe: Recipe) -> dict[str, Any]:
    made = COMPRESS.settings(recipe)["schemes"]
    return {
        "teacher": teacher.model,
        "drafts": {model.role: [model.model, made.get(model.scheme)] for model in drafts},
        "prompt": prompts.load(teacher.prompt).text,
        "temperature": recipe.evaluate.temperature,
    }


def _compare_job(teacher: EvalModel, drafts: Sequence[EvalModel], job: Job) -> CompareJob:
    return CompareJob(
        model=model_files.resolve(teacher.weights, job.say),
        others=tuple(_compared(model, job) for model in drafts),
        temperature=job.recipe.evaluate.temperature,
        bf16=computes_bf16(),
        cache=(job.run_dir / teacher.folder(KIND) / "comparison").absolute(),
    )


def _work(teacher: EvalModel, drafts: Sequence[EvalModel], job: Job, shards: Iterable[Shard]) -> None:
    dialogues = list(_dialogues(teacher, job))
    if not dialogues:
        raise UserError(f"evaluate.draft_tokens: no answer of {teacher.role} on {teacher.set} ended")
    roles = ", ".join(model.role for model in drafts)
    job.say(f"{teacher.set}: reading {len(dialogues)} answers of {teacher.role} with {roles}")
    found = comparison.compare(_compare_job(teacher, drafts, job), dialogues, job.logs / f"{KIND}.log")
    rows = [
        DraftScore(
            id=f"{teacher.set}/{teacher.role}/{model.role}/{each.id}",
            set=teacher.set,
            teacher=teacher.role,
            model_role=model.role,
            problem_id=each.id,
            tokens=each.tokens,
            accepted=each.overlap,
            same=each.same,
        )
        for model, of_one in zip(drafts, found, strict=True)
        for each in of_one
    ]
    for shard in shards:
        shard.write(row.model_dump() for row in rows)


def _compared(model: EvalModel, job: Job) -> Compared:
    if model.scheme is not None:
        return Compared(
            model=str(model_folder(job.run_dir).absolute()), quantized=Path(model.weights).absolute()
        )
    return Compared(model=model_files.resolve(model.weights, job.say, model.pruning))


def _dialogues(teacher: EvalModel, job: Job) -> Iterator[Dialogue]:
    """The teacher's first answer to each problem that ended by itself."""
    prompt, seen = prompts.load(teacher.prompt), set[str]()
    for trace in Output(job.run_dir / teacher.folder("generate"), Trace).rows():
        if trace.finish_reason == "stop" and trace.problem_id not in seen:
            seen.add(trace.problem_id)
            yield Dialogue(id=trace.problem_id, messages=messages(trace, prompt))
