"""Checks what a run will need: `retort check RECIPE`, and the first thing that `retort run` does.

Looks at every stage that is not complete yet. No model is asked anything, and nothing is written but what a
GGUF file is converted to. Whether models fit is computed in pipeline/check/fit.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import prompts
from pipeline import hardware
from pipeline.check import fit
from pipeline.check.fit import GB, Need
from pipeline.config import Recipe
from pipeline.config.endpoints import Endpoint, Student
from pipeline.engine.progress import say
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.inference import model_files
from pipeline.inference.client import Client
from pipeline.publish.target import Target, check_writable
from pipeline.publish.upload import check_access
from pipeline.report import build as report
from pipeline.rows import Message, Question, Trace
from pipeline.select.stage import assistant_text
from pipeline.stages import stages_of
from pipeline.train import launcher, model_facts
from pipeline.train.job import in_bf16
from pipeline.train.model_facts import ModelFacts, ModelQuery
from pipeline.train.stage import served_template

EXAMPLE = Question(question="What is 3 + 2?", reference="5", answer_type="number", source="example")


def require(recipe: Recipe, run_dir: Path) -> None:
    """Raises UserError, one line, when something is missing that the run will need."""
    # What the recipe itself has wrong is told at once: no server is asked and no model is read before.
    missing = [need for need in _settings(recipe, run_dir) if need.state == "missing"]
    missing = missing or [need for need in needs(recipe, run_dir) if need.state == "missing"]
    if missing:
        more = f" (and {len(missing) - 1} more: `retort check RECIPE` lists them)" if missing[1:] else ""
        raise UserError(missing[0].found + more)


def needs(recipe: Recipe, run_dir: Path, to: str | None = None) -> list[Need]:
    """What the stages still to be done need, in their order; `to`: and publishing there."""
    found = _settings(recipe, run_dir)
    # Where a stage's settings are wrong its models may not be those that are meant.
    right = [need.stage for need in found if need.state == "ok"]
    found += _addresses(recipe, right)
    found += _models(recipe, run_dir, right)
    charts = _ask("report", "charts", report.check)  # a run can end without: only said
    found.append(charts if charts.state == "ok" else replace(charts, state="unknown"))
    if to is not None:
        found.append(_ask("publish", to, lambda: _check_target(to, recipe.run)))
    order = [*stages_of(recipe), "report", "publish"]
    told: dict[tuple[str, ...], Need] = {}  # what two stages lack in the same words is told once
    for need in sorted(found, key=lambda need: order.index(need.stage)):
        key = (need.found,) if need.state == "missing" else (need.stage, need.what, need.found)
        told.setdefault(key, need)
    return list(told.values())


def _settings(recipe: Recipe, run_dir: Path) -> list[Need]:
    """Whether the settings of each stage still to be done can hold, as far as this machine alone can tell."""
    return [
        _ask(name, "settings", partial(stage.check, recipe))
        for name, stage in stages_of(recipe).items()
        if not Output(run_dir / name, stage.row).complete
    ]


def print_needs(found: list[Need]) -> None:
    """One line each, and what it comes to."""
    widths = [max(len(getattr(need, field)) for need in found) for field in ("state", "stage", "what")]
    for need in found:
        columns = zip((need.state, need.stage, need.what), widths, strict=True)
        print("  ".join([*(f"{text:{width}}" for text, width in columns), need.found]))
    gpus = hardware.gpus()
    has = f"{len(gpus)} x {gpus[0].name}" if gpus else "GPUs unknown" if hardware.has_gpu() else "no GPU"
    missing = sum(need.state == "missing" for need in found)
    print(f"{missing} missing on this machine ({has}, {hardware.main_memory() / GB:.0f} GB of main memory)")


def _ask(stage: str, what: str, check: Callable[[], object]) -> Need:
    """A check that raises UserError, as a need."""
    try:
        check()
    except UserError as e:
        return Need(stage, what, "missing", str(e))
    return Need(stage, what, "ok", "")


def _addresses(recipe: Recipe, todo: list[str]) -> Iterator[Need]:
    """Servers that are somebody else's: that they answer, take the key and have the model."""
    asked: list[tuple[str, Endpoint]] = []
    if "generate" in todo or "evaluate" in todo:
        asked += [("generate" if "generate" in todo else "evaluate", teacher) for teacher in recipe.teacher]
    if recipe.judge is not None and ("filter" in todo or "evaluate" in todo):
        asked.append(("filter" if "filter" in todo else "evaluate", recipe.judge))
    for stage, endpoint in asked:
        if endpoint.base_urls:
            yield _ask(stage, endpoint.model, partial(_reach, endpoint))


def _reach(endpoint: Endpoint) -> None:
    async def look() -> None:
        async with Client(endpoint, endpoint.base_urls, endpoint.model, concurrency=1) as client:
            await client.check(say)

    asyncio.run(look())


def _models(recipe: Recipe, run_dir: Path, todo: list[str]) -> Iterator[Need]:
    """Models that are served or trained here: that they can be had, asked and taught, and that they fit."""
    asked = next((name for name in ("generate", "evaluate") if name in todo), None)
    served = [teacher for teacher in recipe.teacher if teacher.serve] if asked else []
    student = recipe.student if {"train", "evaluate"} & set(todo) else None
    beside = launcher.teachers(recipe) if student and "train" in todo else ()
    names = [teacher.model for teacher in served] + [teacher.model for teacher in beside]
    queries = [ModelQuery(name=name, model=model_files.resolve(name, say)) for name in names]
    if student:
        queries.append(_taught(recipe, student))
    facts = model_facts.ask(queries)
    for endpoint, known in zip(served, facts, strict=False):
        assert asked is not None
        yield from _had(asked, known)
        table, name = (recipe.generate, "generate") if asked == "generate" else (recipe.evaluate, "evaluate")
        yield from fit.lengths(asked, endpoint, known, table.max_tokens, f"{name}.max_tokens")
        yield fit.serving(asked, endpoint, known)
    for known in facts[len(served) : len(served) + len(beside)]:
        yield from _had("train", known)
    if student:
        others = [known.parameters or 0 for known in facts[len(served) : -1]]
        yield from _student(recipe, student, run_dir, facts[-1], others, "train" in todo)


def _student(
    recipe: Recipe, student: Student, run_dir: Path, known: ModelFacts, beside: list[int], train: bool
) -> Iterator[Need]:
    yield from _had("train" if train else "evaluate", known)
    if train:
        yield fit.training(recipe.train, in_bf16(recipe.train), known, student.layers, beside)
        if shape := known.shape(student.layers):
            yield fit.disk(run_dir, shape.parameters, recipe.train)
    yield from fit.lengths("evaluate", student, known, recipe.evaluate.max_tokens, "evaluate.max_tokens")
    yield fit.serving("evaluate", student, known)


def _taught(recipe: Recipe, student: Student) -> ModelQuery:
    """The student, and an example of what it is to learn: its chat template may not be able to hold it."""
    asked = prompts.load(recipe.select.prompt).render(EXAMPLE)
    thought = "Count 2 up from 3." if recipe.select.reasoning == "tags" else None
    answer = Trace.model_construct(reasoning=thought, response="It is \\boxed{5}.")
    learned = Message(role="assistant", content=assistant_text(answer))
    return ModelQuery(
        name=student.model,
        model=model_files.resolve(student.model, say),
        teach=tuple(message.model_dump() for message in (*asked, learned)),
        reasoning=recipe.select.reasoning,
        served_template=served_template(recipe),
    )


def _had(stage: str, known: ModelFacts) -> Iterator[Need]:
    """Whether a model can be had and spoken to; its sizes where they are known."""
    if known.fault:
        yield Need(stage, "model", "missing", f"{known.name}: cannot be had: {known.fault}")
        return
    if known.unread:
        yield Need(stage, "model", "unknown", f"{known.name}: cannot be looked at: {known.unread}")
        return
    if known.template_fault:
        yield Need(stage, "chat template", "missing", f"{known.name}: {known.template_fault}")
    else:
        yield Need(stage, "chat template", "ok", known.name)
    if download := fit.download(stage, known):
        yield download


def _check_target(to: str, run: str) -> None:
    target = Target.read(to)
    if target.name is not None:
        check_access(target.name)
    elif target.folder is not None:
        check_writable(target.folder, run)
