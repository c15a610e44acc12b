"""evaluate: scores base student, trained student and teachers on the same problems with the same rules.

Each model is sampled and graded by the stages that made the training data, set by set, in its own folders
(`models.py`): a stopped evaluation resumes, and what did not change is not sampled again. The scores are
computed from those folders at no cost, so they are recomputed whenever a setting or a set changes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import prompts
from filters.table import check_rules
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.evaluation import HELD_OUT
from pipeline.engine.stage import Job, Stage
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.evaluate import metrics
from pipeline.evaluate.models import (
    EvalModel,
    eval_models,
    grading_stage,
    problems_stage,
    rules_only,
    sampling_stage,
)
from pipeline.filter import llm_judge
from pipeline.filter import stage as filtering
from pipeline.generate.stage import GENERATE
from pipeline.inference import endpoint, model_files
from pipeline.inference.fingerprint import model_settings
from pipeline.inference.vllm_server import Server
from pipeline.ingest import sources
from pipeline.ingest import stage as ingest
from pipeline.ingest.stage import INGEST
from pipeline.rows import Example, Score, Trace
from pipeline.train.stage import TRAIN


def run(job: Job) -> dict[str, Any]:
    """Reads the sets, samples and grades every model, then computes the scores."""
    for given in job.recipe.evaluate.sets:
        _complete(job, problems_stage(given))
    models = eval_models(job.recipe, job.run_dir)
    by_server: dict[tuple[str, int | None, str], list[EvalModel]] = {}
    for model in models:
        by_server.setdefault(model.server_key, []).append(model)
    for sharing in by_server.values():
        _sample_and_grade(job, sharing)
    scores = [score for model in models for score in _scores(job, model)]
    if job.recipe.evaluate.held_out and not any(score.set == HELD_OUT for score in scores):
        raise _nothing_held_out()
    job.output.write("scores", scores)
    return {
        "table": [s.model_dump(mode="json") for s in metrics.summarise(scores)],
        "student": [c.model_dump(mode="json") for c in metrics.comparisons(scores)],
        "trained_on": _trained_on(job, scores),
    }


def _sample_and_grade(job: Job, sharing: list[EvalModel]) -> None:
    """Completes the stages of models that share a server, which is started at most once."""
    with contextlib.ExitStack() as stack:
        started: list[Server] = []

        @contextlib.contextmanager
        def reach(_: Job) -> Iterator[Server]:
            if not started:
                started.append(stack.enter_context(_reach(sharing[0], job)))
            yield started[0]

        for model in sharing:
            _complete(job, sampling_stage(model, job.recipe, reach))
    for model in sharing:  # after the server has stopped: the LLM judge may need its memory
        _complete(job, grading_stage(model, job.recipe))


def _reach(model: EvalModel, job: Job) -> contextlib.AbstractContextManager[Server]:
    name = "student" if model.trained else model_files.label(model.weights)
    return endpoint.reach(model.endpoint, model.weights, name, job, job.recipe.evaluate, layers=model.layers)


def _substages(recipe: Recipe, run_dir: Path) -> Iterator[Stage]:
    yield from (problems_stage(given) for given in recipe.evaluate.sets)
    for model in eval_models(recipe, run_dir):
        yield sampling_stage(model, recipe, partial(_reach, model))
        yield grading_stage(model, recipe)


def _complete(job: Job, stage: Stage) -> None:
    kinds = {"ingest": INGEST, "problems": INGEST, "generate": GENERATE, "train": TRAIN}
    job.run_substage(stage, {name: kinds[name.rpartition("/")[2]] for name in stage.reads})


def _scores(job: Job, model: EvalModel) -> Iterator[Score]:
    graded = Output(job.run_dir / model.folder("filter"), Trace)
    for _, traces in groupby(graded.rows(), key=lambda trace: trace.problem_id):
        yield metrics.score(model.set, model.role, model.model, list(traces))


def _trained_on(job: Job, scores: list[Score]) -> dict[str, int]:
    """Set -> the number of its problems that the student was trained on; warns of each such set."""
    trained: set[str] = set()
    if job.recipe.student:
        for shard in Output(job.run_dir / "select", Example).shards():
            pairs = zip(shard.column("problem_id"), shard.column("split"), strict=True)
            trained |= {problem for problem, split in pairs if split == "train"}
    counts = Counter(s.set for s in scores if s.model_role == "student" and s.problem_id in trained)
    for name, problems in counts.items():
        job.say(f"evaluate: {metrics.trained_on(name, problems)}")
    return dict(counts)


def _settings(recipe: Recipe) -> dict[str, Any]:
    models = eval_models(recipe, Path())
    return {
        **identity(recipe.evaluate),
        "content": {s.name: [sources.fingerprint(f) for f in s.sources] for s in recipe.evaluate.sets},
        "models": {
            f"{m.set}/{m.role}": model_settings(m.model, m.endpoint) | {"prompt": prompts.load(m.prompt).text}
            for m in models
        },
        "seed": recipe.seed,
        **filtering.settings(recipe, rules_only(recipe), any(m.uses_judge for m in models)),
    }


def _check(recipe: Recipe) -> None:
    models = eval_models(recipe, Path())
    folders = [model.folder("") for model in models]
    for model in models:
        if folders.count(model.folder("")) > 1:
            raise UserError(
                f"two teachers share the folder {model.role!r}: give one another name: name = ..."
            )
        prompts.load(model.prompt)
        if not model.trained:
            endpoint.check(model.endpoint)
    check_rules(recipe.filter.rules)
    if any(model.uses_judge for model in models):
        llm_judge.check(recipe)
    for i, given in enumerate(recipe.evaluate.sets):
        ingest.check(f"evaluate.sets.{i}.sources", given.sources)
    possible = recipe.ingest.held_out or any(s.split == "held_out" for s in recipe.ingest.sources)
    if recipe.evaluate.held_out and not possible:
        raise _nothing_held_out()
    if "correct" not in recipe.filter.rules:
        raise UserError("evaluate counts the verdicts of the rule 'correct', which filter.rules switches off")


def _nothing_held_out() -> UserError:
    return UserError(
        'no problem is held out: set ingest.held_out above 0, or split = "held_out" on a source; '
        "or set evaluate.held_out = false and name other sets in evaluate.sets"
    )


EVALUATE = Stage(
    name="evaluate",
    version=3,
    row=Score,
    shards_from=None,
    reads=("ingest", "train"),
    settings=_settings,
    check=_check,
    run=run,
    recomputable=True,
    tables=("evaluate",),
    substages=_substages,
)
