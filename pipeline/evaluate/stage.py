"""evaluate: base student, trained student and teachers on the same problems, by the same rules.

Each of them is sampled and judged by the stages that made the training data, set by set, in folders of their
own (subjects.py): a stopped evaluation resumes, and what did not change is not asked again. The table of
scores is made of those folders and costs nothing, so it is made anew where a setting or a set is another.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import filters
import prompts
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.evaluation import HELD_OUT
from pipeline.engine.stage import DONE, Job, Stage, execute
from pipeline.engine.store import Output
from pipeline.errors import Stopped, UserError
from pipeline.evaluate import metrics
from pipeline.evaluate import models as subjects
from pipeline.evaluate.models import EvalModel
from pipeline.filter import llm_judge as judge
from pipeline.filter import stage as filtering
from pipeline.generate import sampler
from pipeline.generate import stage as generate
from pipeline.inference import model_files
from pipeline.inference.vllm_server import Server
from pipeline.ingest import sources
from pipeline.ingest import stage as ingest
from pipeline.ingest.stage import INGEST
from pipeline.rows import Example, Score, Trace
from pipeline.train.stage import TRAIN


def run(job: Job) -> dict[str, Any]:
    """Read the sets, sample and judge each subject, then count. One server serves a model on all sets."""
    for given in job.recipe.evaluate.sets:
        _complete(job, subjects.reading(given))
    todo = subjects.subjects(job.recipe, job.run_dir)
    by_server: dict[tuple[str, int | None, str], list[EvalModel]] = {}
    for subject in todo:
        by_server.setdefault(subject.server, []).append(subject)
    for sharing in by_server.values():
        _answer(job, sharing)
    scores = [score for subject in todo for score in _scores(job, subject)]
    if job.recipe.evaluate.held_out and not any(score.set == HELD_OUT for score in scores):
        raise _nothing_held_out()
    job.output.write("scores", scores)
    return {
        "table": [s.model_dump(mode="json") for s in metrics.summarise(scores)],
        "student": [c.model_dump(mode="json") for c in metrics.comparisons(scores)],
        "trained_on": _trained_on(job, scores),
    }


def _answer(job: Job, sharing: list[EvalModel]) -> None:
    with contextlib.ExitStack() as stack:
        opened: list[Server] = []

        @contextlib.contextmanager
        def reach(_: Job) -> Iterator[Server]:
            if not opened:
                first = sharing[0]
                name = "student" if first.trained else model_files.label(first.serves)
                table = job.recipe.evaluate
                reached = generate.reach(
                    first.endpoint, first.serves, name, None, job, first.layers, table=table
                )
                opened.append(stack.enter_context(reached))
            yield opened[0]

        for subject in sharing:
            _complete(job, subjects.answering(subject, job.recipe, reach))
    for subject in sharing:  # their server is gone: a judge model may need its memory
        _complete(job, subjects.judging(subject, job.recipe))


def _parts(recipe: Recipe, run_dir: Path) -> Iterator[Stage]:
    """The stages of all sets and subjects, as they are made one by one."""
    yield from (subjects.reading(given) for given in recipe.evaluate.sets)
    for subject in subjects.subjects(recipe, run_dir):
        alone = partial(generate.reach, subject.endpoint, subject.serves, subject.name, None)
        yield subjects.answering(subject, recipe, alone)
        yield subjects.judging(subject, recipe)


def _complete(job: Job, stage: Stage) -> None:
    within = {name: generate.GENERATE for name in stage.reads if name.endswith("/generate")}
    problems = {name: INGEST for name in stage.reads if name.endswith("/problems")}
    known = {"ingest": INGEST, "train": TRAIN, **within, **problems}
    if execute(stage, known, job.recipe, job.run_dir) != DONE:
        raise Stopped(f"{stage.name} is unfinished; the same command goes on")


def _scores(job: Job, subject: EvalModel) -> Iterator[Score]:
    judged = Output(job.run_dir / subject.folder("filter"), Trace)
    for _, traces in groupby(judged.rows(), key=lambda trace: trace.problem_id):
        yield metrics.score(subject.set, subject.name, subject.model, list(traces))


def _trained_on(job: Job, scores: list[Score]) -> dict[str, int]:
    """Set -> how many of its problems the student learned from, where it did; also said aloud."""
    learned: set[str] = set()
    if job.recipe.student:
        for shard in Output(job.run_dir / "select", Example).shards():
            pairs = zip(shard.column("problem_id"), shard.column("split"), strict=True)
            learned |= {problem for problem, split in pairs if split == "train"}
    found = Counter(s.set for s in scores if s.model_role == "student" and s.problem_id in learned)
    for name, problems in found.items():
        job.say(f"evaluate: {metrics.trained_on(name, problems)}")
    return dict(found)


def _settings(recipe: Recipe) -> dict[str, Any]:
    todo = subjects.subjects(recipe, Path())
    each = {
        f"{s.set}/{s.name}": sampler.model_settings(s.model, s.endpoint)
        | {"prompt": prompts.load(s.prompt).text}
        for s in todo
    }
    judged = any(s.judged for s in todo)
    return {
        **identity(recipe.evaluate),
        "content": {s.name: [sources.fingerprint(f) for f in s.sources] for s in recipe.evaluate.sets},
        "subjects": each,
        "seed": recipe.seed,
        **filtering.settings(recipe, subjects.by_rules(recipe), judged),
    }


def _check(recipe: Recipe) -> None:
    todo = subjects.subjects(recipe, Path())
    folders = [subject.folder("") for subject in todo]
    for subject in todo:
        if folders.count(subject.folder("")) > 1:
            raise UserError(f"two teachers are kept as {subject.name!r}: give one another name: name = ...")
        prompts.load(subject.prompt)
        if not subject.trained:
            generate.check(subject.endpoint)
    filters.check_rules(recipe.filter.rules)
    if any(subject.judged for subject in todo):
        judge.check(recipe)
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
        "or evaluate.held_out = false, where evaluate.sets names others"
    )


EVALUATE = Stage(
    name="evaluate",
    version=2,
    row=Score,
    shards_from=None,
    reads=("ingest", "train"),
    settings=_settings,
    check=_check,
    run=run,
    free=True,
    tables=("evaluate",),
    parts=_parts,
)
