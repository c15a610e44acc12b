"""How often the untrained student solves the training problems itself: two stages nested in `score`.

It is sampled and graded as evaluate does with the base model, but on the problems to train on. Like every
sampling it resumes, and more samples request only what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.config.endpoints import Student
from pipeline.config.evaluate import Evaluate
from pipeline.config.filters import Filter
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.filter.stage import rules_stage
from pipeline.generate import sampler
from pipeline.generate import stage as generate
from pipeline.generate.sample_plan import SampleBudget
from pipeline.generate.sampler import Model, SamplingJob
from pipeline.generate.valid_traces import TRACE_KEY, contradiction
from pipeline.inference import endpoint
from pipeline.inference.pruning import pruning_of
from pipeline.inference.vllm_server import Server
from pipeline.ingest.stage import INGEST
from pipeline.rows import Trace, TraceVerdicts
from pipeline.select.choices import pass_rate

Reach = Callable[[Job], AbstractContextManager[Server]]


def wanted(recipe: Recipe) -> bool:
    return recipe.score is not None and recipe.score.student_samples > 0


def check(recipe: Recipe) -> None:
    """Raises UserError where the student cannot be sampled, or its answers cannot be graded."""
    setting = "score.student_samples"
    if recipe.student is None:
        raise UserError(f"{setting} needs a table [student]")
    if "correct" not in recipe.filter.rules:
        raise UserError(f"{setting} counts verdicts of the rule 'correct', which filter.rules switches off")
    if recipe.judged_source:
        raise UserError(f"{setting}: answers to {recipe.judged_source!r} need the judge, which is not asked")
    endpoint.check(recipe.student)


def stages(recipe: Recipe, run_dir: Path) -> tuple[Stage, ...]:
    """The stages, where the recipe wants them: that of the answers, and that of their verdicts."""
    return (attempts_stage(recipe), graded_stage(recipe)) if wanted(recipe) else ()


def attempts_stage(recipe: Recipe, reach: Reach | None = None) -> Stage:
    """The stage that samples the student; `reach`: its server in place of one that is started."""
    sampling = _sampling(recipe, reach)
    return Stage(
        name="score/attempts",
        version=generate.GENERATE.version,
        row=Trace,
        reads=(INGEST,),
        shards_from="ingest",
        settings=partial(_settings, sampling),
        check=_checked_by_score,
        prepare=partial(generate.prepare, sampling),
        work=partial(generate.sample, sampling),
        report=generate.report,
        asks_models=True,
        contradiction=contradiction,
        key=TRACE_KEY,
    )


def graded_stage(recipe: Recipe) -> Stage:
    return rules_stage(
        "score/graded", attempts_stage(recipe), Filter(rules=recipe.filter.rules), uses_judge=False
    )


def pass_rates(graded: Shard) -> dict[str, float | None]:
    """Problem -> the share of the student's graded samples that are correct; None if none was graded."""
    by_problem = groupby(graded.rows(), key=lambda row: row.problem_id)
    return {problem: pass_rate(rows) for problem, rows in by_problem}


def all_pass_rates(run_dir: Path) -> Iterator[float | None]:
    for shard in Output(run_dir / "score/graded", TraceVerdicts).shards():
        yield from pass_rates(shard).values()


def settings(recipe: Recipe) -> dict[str, Any]:
    """Everything that changes the pass rates."""
    graded = graded_stage(recipe)
    return {"attempts": _settings(_sampling(recipe, None), recipe), "graded": graded.settings(recipe)}


def _sampling(recipe: Recipe, reach: Reach | None) -> SamplingJob:
    assert recipe.score is not None
    assert recipe.student is not None
    samples = recipe.score.student_samples
    student, table = recipe.student, recipe.evaluate.model_copy(update={"samples": samples})
    name = f"{student.model} pruned to {pruning.words}" if (pruning := pruning_of(student)) else student.model
    return SamplingJob(
        split="train",
        models=(Model(name, student, reach or partial(_reach, student, table)),),
        prompt=recipe.evaluate.prompt or recipe.select.prompt,
        table=table,
        budget=SampleBudget(samples, target_kept=None, max_continuations=0),
        filters=recipe.filter.rules,
    )


def _reach(student: Student, table: Evaluate, job: Job) -> AbstractContextManager[Server]:
    return endpoint.reach(
        student, student.model, "untrained-student", job, table, pruning=pruning_of(student)
    )


def _settings(sampling: SamplingJob, recipe: Recipe) -> dict[str, Any]:
    return sampler.settings(sampling, recipe.seed)


def _checked_by_score(recipe: Recipe) -> None:
    """The stage `score` checks the recipe for the stages nested in it."""
