"""evaluate: scores base, student, its compressed forms and teachers on the same problems by the same rules.

Each model is sampled and graded by the stages that made the training data, set by set, in its own folders
(`models.py`): a stopped evaluation resumes, and what did not change is not sampled again. The scores are
computed from those folders at no cost, so they are recomputed whenever a setting or a set changes.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import prompts
from filters.table import check_rules
from pipeline.compress import serving
from pipeline.compress.schemes import SCHEMES
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.evaluate import HELD_OUT
from pipeline.engine import checksums
from pipeline.engine.execute import complete
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.evaluate import acceptance, compressed, drafts, metrics
from pipeline.evaluate.models import (
    EvalModel,
    eval_models,
    grading_stage,
    problems_stage,
    rules_only,
    sampling_stages,
)
from pipeline.filter import llm_judge
from pipeline.filter import stage as filtering
from pipeline.filter.apply import policy_of
from pipeline.filter.verdicts import filtered_traces
from pipeline.inference import endpoint, model_files
from pipeline.inference.fingerprint import model_settings
from pipeline.inference.pruning import Pruning
from pipeline.inference.vllm_server import Server
from pipeline.ingest import sources
from pipeline.ingest import stage as ingest
from pipeline.ingest.stage import INGEST
from pipeline.model_rows import Score
from pipeline.rows import Example, Trace, TraceVerdicts
from pipeline.train.stage import TRAIN


def prepare(job: Job) -> None:
    """Reads the sets, then samples and grades every model, in the stages nested in evaluate."""
    for given in job.recipe.evaluate.sets:
        complete(problems_stage(given), job)
    models = eval_models(job.recipe, job.run_dir)
    if any(model.mode == "plain" and model.switch is None for model in models):
        raise UserError(
            "evaluate.modes: the training of this run did not record how the student is asked not to think: "
            "set select.thinking_switch"
        )
    drafts.check_vocabularies(job)
    by_server: dict[tuple[str, Pruning | None, str], list[EvalModel]] = {}
    for model in models:
        by_server.setdefault(model.server_key, []).append(model)
    for sharing in by_server.values():
        _sample_and_grade(job, sharing)
    for stage in _draft_stages(job.recipe, job.run_dir):
        complete(stage, job)


def work(job: Job, shards: Iterable[Shard]) -> None:
    """Writes the scores of all models to the only shard."""
    scores = [score for model in eval_models(job.recipe, job.run_dir) for score in _scores(job, model)]
    if job.recipe.evaluate.held_out and not any(score.set == HELD_OUT for score in scores):
        raise _nothing_held_out()
    for shard in shards:
        shard.write(score.model_dump() for score in scores)


def report(job: Job) -> dict[str, Any]:
    """The scores and comparisons of all sets."""
    scores: list[Score] = list(job.output.rows())
    return {
        "table": [s.model_dump(mode="json") for s in metrics.summarise(scores)],
        "student": [c.model_dump(mode="json") for c in metrics.comparisons(scores)],
        "trained_on": _trained_on(job, scores),
        "engines": {f"{m.set}/{m.role}": _engines(job, m) for m in eval_models(job.recipe, job.run_dir)},
        **compressed.report(job, eval_models(job.recipe, job.run_dir), scores),
        **_drafts(job),
    }


def _drafts(job: Job) -> dict[str, Any]:
    """The manifest's part on drafts; {} where they are not measured."""
    if (draft_tokens := job.recipe.evaluate.draft_tokens) is None:
        return {}
    rows = [
        row for stage in _draft_stages(job.recipe, job.run_dir) for row in stage.output(job.run_dir).rows()
    ]
    return {"drafts": [line.model_dump(mode="json") for line in acceptance.table(rows, draft_tokens)]}


def _draft_stages(recipe: Recipe, run_dir: Path) -> Iterator[Stage]:
    return drafts.stages(recipe, run_dir, lambda model: _sampling_stages(model, recipe)[0])


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
            for stage in sampling_stages(model, job.recipe, reach):
                complete(stage, job)
    for model in sharing:  # after the server has stopped: the LLM judge may need its memory
        complete(grading_stage(model, job.recipe, _sampling_stages(model, job.recipe)[0]), job)


def _reach(model: EvalModel, job: Job) -> contextlib.AbstractContextManager[Server]:
    if model.scheme is not None:
        if not Path(model.weights).exists():
            raise UserError(f"the student has no form {model.scheme} yet: run `retort compress` first")
        program = SCHEMES[model.scheme].served_by.replace(".", "")
        log = job.logs / f"{program}-{model.role}.log"
        return serving.serving(model.scheme, Path(model.weights), model.role, job.recipe, log, job.say)
    name = "student" if model.trained else model_files.label(model.weights)
    return endpoint.reach(
        model.endpoint, model.weights, name, job, job.recipe.evaluate, pruning=model.pruning
    )


def _substages(recipe: Recipe, run_dir: Path) -> Iterator[Stage]:
    yield from (problems_stage(given) for given in recipe.evaluate.sets)
    for model in eval_models(recipe, run_dir):
        sampled = _sampling_stages(model, recipe)
        yield from sampled
        yield grading_stage(model, recipe, sampled[0])
    yield from _draft_stages(recipe, run_dir)


def _sampling_stages(model: EvalModel, recipe: Recipe) -> list[Stage]:
    """The stages that sample a model with a server of its own."""
    return sampling_stages(model, recipe, partial(_reach, model))


def _scores(job: Job, model: EvalModel) -> Iterator[Score]:
    answers = Output(job.run_dir / model.folder("generate"), Trace).shards()
    verdicts = Output(job.run_dir / model.folder("filter"), TraceVerdicts).shards()
    policy = policy_of(job.recipe.filter)
    for pair in zip(answers, verdicts, strict=True):
        for _, traces in groupby(filtered_traces(*pair), key=lambda trace: trace.problem_id):
            yield metrics.score(model.set, model.role, model.model, list(traces), model.mode, policy)


def _engines(job: Job, model: EvalModel) -> list[dict[str, Any]]:
    """The engines that made a model's responses; [] if they are unknown."""
    manifest = Output(job.run_dir / model.folder("generate"), Trace).manifest()
    found = manifest.report.get("engines", {}) if manifest else {}
    return [engine for engines in found.values() for engine in engines]


def _trained_on(job: Job, scores: list[Score]) -> dict[str, int]:
    """Set -> the number of its problems that the student was trained on; warns of each such set."""
    trained: set[str] = set()
    for folder in _trainings(job.recipe, job.run_dir) if job.recipe.student else ():
        for shard in Output(folder / "select", Example).shards():
            pairs = zip(shard.column("problem_id"), shard.column("split"), strict=True)
            trained |= {problem for problem, split in pairs if split == "train"}
    counts = Counter(s.set for s in scores if s.model_role == "student" and s.problem_id in trained)
    for name, problems in counts.items():
        job.say(f"evaluate: {metrics.trained_on(name, problems)}")
    return dict(counts)


def _trainings(recipe: Recipe, run_dir: Path) -> Iterator[Path]:
    """The run, and those before it in a chain whose students its training went on from."""
    yield run_dir
    if recipe.parent and recipe.parent.start:
        before = run_dir.parent / recipe.parent.run
        yield from _trainings(Recipe.model_validate_json(checksums.read(before / "recipe.json")), before)


def _settings(recipe: Recipe) -> dict[str, Any]:
    models = eval_models(recipe, Path())
    return {
        **identity(recipe.evaluate),
        "content": {s.name: [sources.fingerprint(f) for f in s.sources] for s in recipe.evaluate.sets},
        "models": {
            f"{m.set}/{m.role}": model_settings(m.model, m.endpoint)
            | {"prompt": prompts.load(m.prompt).text}
            | ({"switch": recipe.select.thinking_switch} if recipe.select.mix or m.mode == "plain" else {})
            for m in models
        },
        "seed": recipe.seed,
        **filtering.settings(rules_only(recipe), any(m.uses_judge for m in models), recipe),
    }


def _check(recipe: Recipe) -> None:
    models = eval_models(recipe, Path())
    if not models:
        raise UserError("evaluate has no model to score: add a table [student] or [teacher]")
    folders = [model.folder("generate") for model in models]
    for model in models:
        if folders.count(model.folder("generate")) > 1:
            raise UserError(
                f"two teachers share the folder {model.role!r}: give one another name: name = ..."
            )
        prompts.load(model.prompt)
        if model.scheme is not None:
            serving.check(model.scheme, recipe)
        elif not model.trained:
            endpoint.check(model.endpoint)
    if drafts.wanted(recipe):
        drafts.check(recipe)
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
    version=4,  # 4: columns `mode` and `with_reasoning`
    row=Score,
    reads=(INGEST, TRAIN),
    shards=("scores",),
    settings=_settings,
    check=_check,
    prepare=prepare,
    work=work,
    report=report,
    free=True,
    substages=_substages,
)
