"""evaluate: base student, trained student and teacher on the same held-out problems, by the same rules.

Each of the three is sampled and judged by the stages that made the training data, in a folder of its own, so
a stopped evaluation resumes and a model that did not change is not asked again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import prompts
from pipeline import drawing, models, sampling, scoring
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.endpoints import Endpoint
from pipeline.drawing import Draw, Model
from pipeline.errors import Stopped, UserError
from pipeline.rows import Score, Trace
from pipeline.server import Server
from pipeline.stage import DONE, Job, Stage, execute
from pipeline.stages import filter as filtering
from pipeline.stages import generate, judge
from pipeline.stages.ingest import INGEST
from pipeline.stages.train import TRAIN, model_folder
from pipeline.store import Output


@dataclass(frozen=True)
class Subject:
    """One of the models compared."""

    name: str
    model: str  # as rows name it
    serves: str  # what is served: a hub name, a folder, a GGUF file
    endpoint: Endpoint
    prompt: str
    reads: tuple[str, ...]  # stages whose output it depends on


def subjects(recipe: Recipe, run_dir: Path) -> tuple[Subject, ...]:
    """The models of the comparison, those that one server can answer for side by side."""
    plain = recipe.evaluate.prompt or recipe.select.prompt
    worked = recipe.evaluate.teacher_prompt or recipe.generate.prompt
    base = recipe.student
    several = len(recipe.teacher) > 1
    return (
        *(
            Subject(
                f"teacher-{models.label(t.called)}" if several else "teacher",
                t.called,
                t.model,
                t,
                worked,
                ("ingest",),
            )
            for t in recipe.teacher
        ),
        Subject("base", base.model, base.model, base, plain, ("ingest",)),
        Subject(
            "student", f"{recipe.run} student", str(model_folder(run_dir)), base, plain, ("ingest", "train")
        ),
    )


def run(job: Job) -> dict[str, Any]:
    """Sample and judge each subject, then count. Servers are shared where one model serves two subjects."""
    todo = subjects(job.recipe, job.run_dir)
    for _, sharing in groupby(todo, key=lambda s: (s.serves, s.endpoint.model_dump_json(exclude={"model"}))):
        _answer(job, list(sharing))
    scores = [score for subject in todo for score in _scores(job, subject)]
    if not scores:
        raise UserError(
            'no problem is held out: set ingest.held_out above 0, or split = "held_out" on a source'
        )
    job.output.write("scores", scores)
    return {"table": [s.model_dump(mode="json") for s in scoring.summarise(scores)]}


def _answer(job: Job, sharing: list[Subject]) -> None:
    with contextlib.ExitStack() as stack:
        opened: list[Server] = []

        @contextlib.contextmanager
        def reach(_: Job) -> Iterator[Server]:
            if not opened:
                first = sharing[0]
                name = first.name if first.name == "student" else models.label(first.serves)
                reached = generate.reach(first.endpoint, first.serves, name, None, job)
                opened.append(stack.enter_context(reached))
            yield opened[0]

        for subject in sharing:
            _complete(job, subject, _drawing(subject, job.recipe, reach))
    for subject in sharing:  # their server is gone: a judge model may need its memory
        _complete(job, subject, filtering.judging(_folder(subject, "filter"), _folder(subject, "generate")))


def _complete(job: Job, subject: Subject, stage: Stage) -> None:
    stages = {"ingest": INGEST, "train": TRAIN, _folder(subject, "generate"): generate.GENERATE}
    if execute(stage, stages, job.recipe, job.run_dir) != DONE:
        raise Stopped(f"{stage.name} is unfinished; the same command goes on")


def _drawing(subject: Subject, recipe: Recipe, reach: Any) -> Stage:
    table = recipe.evaluate
    draw = Draw(
        split="held_out",
        models=(Model(subject.model, subject.endpoint, reach),),
        prompt=subject.prompt,
        table=table,
        wanted=sampling.Rules(most=table.samples, until=None, continue_cut=0),
        filters=recipe.filter.rules,
    )
    return Stage(
        name=_folder(subject, "generate"),
        version=generate.GENERATE.version,
        row=Trace,
        mirrors="ingest",
        reads=subject.reads,
        settings=lambda recipe: drawing.settings(draw, recipe.seed),
        check=lambda _: None,
        run=lambda job: generate.run(job, draw),
    )


def _folder(subject: Subject, stage: str) -> str:
    return f"evaluate/{subject.name}/{stage}"


def _scores(job: Job, subject: Subject) -> Iterator[Score]:
    judged = Output(job.run_dir / _folder(subject, "filter"), Trace)
    for _, traces in groupby(judged.rows(), key=lambda trace: trace.problem_id):
        yield scoring.score(subject.name, subject.model, list(traces))


def _settings(recipe: Recipe) -> dict[str, Any]:
    each = {
        s.name: drawing.model_settings(s.model, s.endpoint) | {"prompt": prompts.load(s.prompt).text}
        for s in subjects(recipe, Path())
    }
    return {**identity(recipe.evaluate), "subjects": each, "seed": recipe.seed, **filtering.settings(recipe)}


def _check(recipe: Recipe) -> None:
    for subject in subjects(recipe, Path()):
        prompts.load(subject.prompt)
        if subject.name != "student":
            generate.check(subject.endpoint)
    if recipe.judged:
        judge.check(recipe)
    if not recipe.ingest.held_out and all(s.split != "held_out" for s in recipe.ingest.sources):
        raise UserError(
            'no problem is held out: set ingest.held_out above 0, or split = "held_out" on a source'
        )
    if "correct" not in recipe.filter.rules:
        raise UserError(
            "evaluate counts the verdicts of the rule 'correct', which filter.rules does not name"
        )


EVALUATE = Stage(
    name="evaluate",
    version=1,
    row=Score,
    mirrors=None,
    reads=("ingest", "train"),
    settings=_settings,
    check=_check,
    run=run,
)
