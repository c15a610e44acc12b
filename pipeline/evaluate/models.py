"""Which models evaluate compares on which problems, and the parts of it that have folders of their own.

evaluate/SET/problems holds the problems of a set that the recipe names, evaluate/SET/SUBJECT/generate the
answers of a model, .../filter the same judged. Each is a stage like any other: it resumes, is paid once, and
another set or its settings do not change it. Leaves out the order in which they run (evaluate.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import Recipe
from pipeline.config.endpoints import Endpoint
from pipeline.config.evaluation import HELD_OUT, EvaluationSet
from pipeline.config.sources import Ingest, free
from pipeline.config.traces import Filter
from pipeline.engine.stage import Job, Stage
from pipeline.filter import stage as filtering
from pipeline.generate import sample_plan, sampler
from pipeline.generate import stage as generate
from pipeline.generate.sampler import Model, SamplingJob
from pipeline.inference import model_files
from pipeline.inference.vllm_server import Server
from pipeline.ingest import stage as ingest
from pipeline.rows import Problem, Trace
from pipeline.train.stage import model_folder


@dataclass(frozen=True)
class EvalModel:
    """One of the models compared, on one of the sets."""

    set: str
    problems: str  # the stage that holds them
    judged: bool  # whether a judge model is asked of some answers
    name: str
    model: str  # as rows name it
    serves: str  # what is served: a hub name, a folder, a GGUF file
    endpoint: Endpoint
    prompt: str
    trained: bool = False  # by this run
    layers: int | None = None  # that the model is cut to; None: all

    def folder(self, stage: str) -> str:
        return f"evaluate/{self.set}/{self.name}/{stage}"

    @property
    def server(self) -> tuple[str, int | None, str]:
        """Subjects for which this is the same share a server."""
        return (
            self.serves,
            self.layers,
            self.endpoint.model_dump_json(include=set(Endpoint.model_fields) - {"model"}),
        )


def subjects(recipe: Recipe, run_dir: Path) -> list[EvalModel]:
    """The models compared, set by set: teachers, base and student; without a student the teachers."""
    table = recipe.evaluate
    plain, worked = table.prompt or recipe.select.prompt, table.teacher_prompt or recipe.generate.prompt
    found: list[EvalModel] = []
    if table.held_out:
        found += _of_set(recipe, run_dir, HELD_OUT, "ingest", bool(recipe.judged), plain, worked)
    for given in table.sets:
        judged = free(given.sources) is not None and "correct" in recipe.filter.rules
        prompts = (given.prompt or plain, given.teacher_prompt or worked)
        found += _of_set(recipe, run_dir, given.name, problems_of(given), judged, *prompts)
    return found


def _of_set(
    recipe: Recipe, run_dir: Path, name: str, problems: str, judged: bool, plain: str, worked: str
) -> Iterator[EvalModel]:
    several = len(recipe.teacher) > 1
    for t in recipe.teacher:
        called = f"teacher-{model_files.label(t.display_name)}" if several else "teacher"
        yield EvalModel(name, problems, judged, called, t.display_name, t.model, t, worked)
    if base := recipe.student:
        model = f"{base.model} cut to {base.layers} layers" if base.layers else base.model
        yield EvalModel(name, problems, judged, "base", model, base.model, base, plain, layers=base.layers)
        folder = str(model_folder(run_dir))
        yield EvalModel(
            name, problems, judged, "student", f"{recipe.run} student", folder, base, plain, trained=True
        )


def problems_of(given: EvaluationSet) -> str:
    """The stage that holds the problems of a set."""
    return f"evaluate/{given.name}/problems"


def reading(given: EvaluationSet) -> Stage:
    """The stage that reads the problems of a set, as ingest does; all of them are held out."""
    held_out = tuple(source.model_copy(update={"split": "held_out"}) for source in given.sources)
    table = Ingest(sources=held_out)
    return Stage(
        name=problems_of(given),
        version=ingest.INGEST.version,
        row=Problem,
        shards_from=None,
        reads=(),
        settings=lambda recipe: ingest.settings(table, recipe.seed),
        check=lambda _: None,
        run=lambda job: ingest.run(job, table),
    )


def answering(
    subject: EvalModel, recipe: Recipe, reach: Callable[[Job], AbstractContextManager[Server]]
) -> Stage:
    """The stage that draws a subject's answers."""
    table = recipe.evaluate
    draw = SamplingJob(
        split="held_out",
        models=(Model(subject.model, subject.endpoint, reach),),
        prompt=subject.prompt,
        table=table,
        wanted=sample_plan.Rules(most=table.samples, until=None, max_continuations=0),
        filters=recipe.filter.rules,
    )
    return Stage(
        name=subject.folder("generate"),
        version=generate.GENERATE.version,
        row=Trace,
        shards_from=subject.problems,
        reads=(subject.problems, "train") if subject.trained else (subject.problems,),
        settings=lambda recipe: sampler.settings(draw, recipe.seed),
        check=lambda _: None,
        run=lambda job: generate.run(job, draw),
    )


def judging(subject: EvalModel, recipe: Recipe) -> Stage:
    """The stage that judges a subject's answers by the rules."""
    return filtering.judging(
        subject.folder("filter"), subject.folder("generate"), by_rules(recipe), subject.judged
    )


def by_rules(recipe: Recipe) -> Filter:
    """What judges answers here: the rules alone. What looks across traces chooses what is trained on."""
    return Filter(rules=recipe.filter.rules)
