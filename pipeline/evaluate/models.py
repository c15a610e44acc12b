"""Lists which models evaluate compares on which problems, and defines the stages nested in it.

evaluate/SET/problems holds the problems of a set from the recipe, evaluate/SET/ROLE/generate the responses of
a model, and .../filter the same with verdicts. Of compressed students .../greedy holds, too, a response to
each problem at temperature 0. Each is an ordinary stage: it resumes, is paid once, and does not change when
another set does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.compress import serving
from pipeline.compress.models import export_path
from pipeline.compress.stage import COMPRESS
from pipeline.config import Recipe
from pipeline.config.compress import SchemeName
from pipeline.config.endpoints import Endpoint
from pipeline.config.evaluate import HELD_OUT, Evaluate, EvaluationSet
from pipeline.config.filters import Filter
from pipeline.config.ingest import Ingest
from pipeline.config.load import REASONING_OPTIONAL
from pipeline.config.mix import ThinkingSwitch
from pipeline.config.sources import free_text_source
from pipeline.engine.layout import OutputPath
from pipeline.engine.manifest import Manifest
from pipeline.engine.stage import Job, Stage
from pipeline.filter.stage import rules_stage
from pipeline.generate import sampler
from pipeline.generate import stage as generate
from pipeline.generate.sample_plan import SampleBudget
from pipeline.generate.sampler import Model, SamplingJob
from pipeline.generate.valid_traces import TRACE_KEY, contradiction
from pipeline.inference import model_files, thinking
from pipeline.inference.pruning import Pruning, pruning_of
from pipeline.inference.vllm_server import Server
from pipeline.ingest import stage as ingest
from pipeline.ingest.stage import INGEST
from pipeline.model_rows import Mode
from pipeline.rows import Problem, Trace
from pipeline.select.stage import SELECT
from pipeline.train.job import read_preflight
from pipeline.train.stage import TRAIN, model_folder

COMPRESSED = "compressed"  # the setting of a sampling stage that says how its student was compressed


@dataclass(frozen=True)
class EvalModel:
    """One of the compared models, on one of the sets."""

    set: str
    uses_judge: bool  # whether the LLM judge grades some of the answers
    role: str  # base, student, student-SCHEME, teacher or teacher-NAME
    model: str  # its name in rows
    weights: str  # hub name, folder or GGUF file
    endpoint: Endpoint
    prompt: str
    trained: bool = False  # by this run
    pruning: Pruning | None = None  # of the base; None: it is whole
    scheme: SchemeName | None = None  # by which it was compressed
    mode: Mode = "reasoning"
    switch: ThinkingSwitch | None = None  # how it is asked for that; None: as the prompt alone asks

    def folder(self, kind: str) -> str:
        return str(OutputPath(kind, self.set, self.role))

    @property
    def server_key(self) -> tuple[str, Pruning | None, str]:
        """Models with equal keys can share a server."""
        settings = self.endpoint.model_dump_json(include=set(Endpoint.model_fields) - {"model"})
        return self.weights, self.pruning, settings


def eval_models(recipe: Recipe, run_dir: Path) -> list[EvalModel]:
    """The compared models, set by set: teachers, and with a [student] also the base and the student."""
    table = recipe.evaluate
    prompt, teacher_prompt = (
        table.prompt or recipe.select.prompt,
        table.teacher_prompt or recipe.generate.prompt or "",  # required with a teacher
    )
    models: list[EvalModel] = []
    if table.held_out:
        uses_judge = bool(recipe.judged_source)
        models += _of_set(recipe, run_dir, HELD_OUT, uses_judge, prompt, teacher_prompt)
    for given in table.sets:
        uses_judge = free_text_source(given.sources) is not None and "correct" in recipe.filter.rules
        prompts = (given.prompt or prompt, given.teacher_prompt or teacher_prompt)
        models += _of_set(recipe, run_dir, given.name, uses_judge, *prompts)
    return models


def _of_set(
    recipe: Recipe,
    run_dir: Path,
    name: str,
    uses_judge: bool,
    prompt: str,
    teacher_prompt: str,
) -> Iterator[EvalModel]:
    wanted, several = recipe.evaluate.models, len(recipe.teacher) > 1
    for t in recipe.teacher if "teacher" in wanted else ():
        role = f"teacher-{model_files.label(t.display_name)}" if several else "teacher"
        yield EvalModel(name, uses_judge, role, t.display_name, t.model, t, teacher_prompt)
    if base := recipe.student:
        pruning = pruning_of(base, run_dir)
        model = f"{base.model} pruned to {pruning.words}" if pruning else base.model
        student, folder = f"{recipe.run} student", str(model_folder(run_dir))
        both = (
            EvalModel(name, uses_judge, "base", model, base.model, base, prompt, pruning=pruning),
            EvalModel(name, uses_judge, "student", student, folder, base, prompt, trained=True),
        )
        scored = [model for model in both if model.role in wanted]
        for mode in dict.fromkeys(recipe.modes):
            yield from (in_mode(model, mode, recipe, run_dir) for model in scored)
        for scheme in served_schemes(recipe) if "student" in wanted else ():
            folder, role = str(export_path(run_dir, scheme)), f"student-{scheme}"
            endpoint = serving.endpoint_of(scheme, base)
            compressed = EvalModel(
                name, uses_judge, role, f"{student} {scheme}", folder, endpoint, prompt, True, scheme=scheme
            )
            yield in_mode(compressed, "reasoning", recipe, run_dir)


def served_schemes(recipe: Recipe) -> list[SchemeName]:
    """The schemes of the recipe whose students can be evaluated on this machine."""
    return [scheme for scheme in recipe.compress.schemes if serving.cannot_serve(scheme) is None]


def in_mode(model: EvalModel, mode: Mode, recipe: Recipe, run_dir: Path) -> EvalModel:
    """The model, asked for answers of this form by the switch with which the student was trained.

    Its `switch` stays None for plain answers until a training has recorded the template's own one.
    """
    if mode == "reasoning" and not recipe.select.mix:
        return model
    preflight = read_preflight(model_folder(run_dir).with_name("preflight.json"))
    switch = recipe.select.thinking_switch or (preflight.thinking_switch if preflight else None)
    role = model.role if mode == "reasoning" else f"plain-{model.role}"
    return replace(model, mode=mode, switch=switch, role=role)


def problems_stage(given: EvaluationSet) -> Stage:
    """The stage that reads the problems of a set, like ingest, all of them as held out."""
    held_out = tuple(source.model_copy(update={"split": "held_out"}) for source in given.sources)
    table = Ingest(sources=held_out)
    return Stage(
        name=str(OutputPath("problems", given.name)),
        version=ingest.INGEST.version,
        row=Problem,
        settings=partial(ingest.settings, table),
        check=_checked_by_evaluate,
        prepare=partial(ingest.write_problems, table),
        report=ingest.report,
        free=True,
    )


def _checked_by_evaluate(recipe: Recipe) -> None:
    """The stage `evaluate` checks the recipe for all stages nested in it."""


Reach = Callable[[Job], AbstractContextManager[Server]]


def sampling_stages(model: EvalModel, recipe: Recipe, reach: Reach) -> list[Stage]:
    """The stages that sample a model's responses: as the recipe says, and greedily where that is compared."""
    table = recipe.evaluate
    stages = [_sampling_stage(model, recipe, reach, "generate", table)]
    if model.trained and served_schemes(recipe):
        greedy = table.model_copy(update={"samples": 1, "temperature": 0.0, "top_p": 1.0})
        stages.append(_sampling_stage(model, recipe, reach, "greedy", greedy))
    return stages


def _sampling_stage(model: EvalModel, recipe: Recipe, reach: Reach, kind: str, table: Evaluate) -> Stage:
    problems = _problems_stage_of(model, recipe)
    variables = thinking.arguments(model.switch, model.mode == "reasoning")
    extra_body = thinking.with_template_arguments(model.endpoint.extra_body, variables)
    endpoint = model.endpoint.model_copy(update={"extra_body": extra_body})
    sampling = SamplingJob(
        split="held_out",
        models=(Model(model.model, endpoint, reach),),
        prompt=model.prompt,
        table=table,
        budget=SampleBudget(table.samples, target_kept=None, max_continuations=0),
        filters=rules_only(recipe, model.mode).rules,
        no_think=None if variables or model.mode == "reasoning" else model.switch,
    )
    return Stage(
        name=model.folder(kind),
        version=generate.GENERATE.version,
        row=Trace,
        reads=(problems, *_made_from(model)),
        shards_from=problems.name,
        settings=partial(_sampling_settings, sampling, model.scheme),
        check=_checked_by_evaluate,
        prepare=partial(generate.prepare, sampling),
        work=partial(generate.sample, sampling),
        report=generate.report,
        asks_models=True,
        contradiction=contradiction if model.scheme is None else _contradiction_of_compressed,
        key=TRACE_KEY,
    )


def _made_from(model: EvalModel) -> tuple[Stage, ...]:
    """The stages whose results decide the model's weights."""
    if model.trained:
        return (TRAIN,)
    return (SELECT,) if model.pruning and model.pruning.measured else ()


def _sampling_settings(sampling: SamplingJob, scheme: SchemeName | None, recipe: Recipe) -> dict[str, Any]:
    """With how a compressed student is made: its settings, so that other schemes change nothing here."""
    made = {} if scheme is None else {COMPRESSED: COMPRESS.settings(recipe)["schemes"][scheme]}
    return sampler.settings(sampling, recipe.seed) | made


def _contradiction_of_compressed(found: Manifest, wanted: Manifest) -> str:
    """As for any model, but a student that is compressed in another way is simply sampled again."""
    plain = (
        manifest.model_copy(update={"settings": manifest.settings | {COMPRESSED: None}})
        for manifest in (found, wanted)
    )
    return contradiction(*plain)


def _problems_stage_of(model: EvalModel, recipe: Recipe) -> Stage:
    if model.set == HELD_OUT:
        return INGEST
    return next(problems_stage(given) for given in recipe.evaluate.sets if given.name == model.set)


def grading_stage(model: EvalModel, recipe: Recipe, sampled: Stage) -> Stage:
    """The stage that applies the rules to a model's responses, those of the stage `sampled`."""
    return rules_stage(model.folder("filter"), sampled, rules_only(recipe, model.mode), model.uses_judge)


def rules_only(recipe: Recipe, mode: Mode = "reasoning") -> Filter:
    """The rules, without filters across traces, which select training data.

    Plain answers need no reasoning.
    """
    optional = REASONING_OPTIONAL if mode == "plain" else {}
    return Filter(rules={name: given | optional.get(name, {}) for name, given in recipe.filter.rules.items()})
