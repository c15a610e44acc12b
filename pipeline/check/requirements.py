"""Checks what a run needs, for `retort check` and at the start of `retort run`.

Covers every stage that is not complete. It sends no prompt, and writes nothing but the conversion of a GGUF
file. pipeline/check/fit.py computes whether models fit.
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
from pipeline.check.fit import GB, Requirement
from pipeline.compress import recovery
from pipeline.config import Recipe
from pipeline.config.endpoints import Endpoint, Student
from pipeline.engine.changed_settings import check_settings, is_current
from pipeline.engine.progress import say
from pipeline.errors import UserError
from pipeline.inference import endpoint, model_files
from pipeline.inference.pruning import Pruning, pruning_of
from pipeline.publish.target import Target, check_writable
from pipeline.publish.upload import check_access
from pipeline.report import build as report
from pipeline.rows import Message, Trace
from pipeline.select.chat_format import assistant_text
from pipeline.stages import stages_of
from pipeline.train import labels, model_facts, objectives
from pipeline.train.job import in_bf16
from pipeline.train.model_facts import ModelFacts, ModelQuery
from pipeline.train.stage import served_template


def require(recipe: Recipe, run_dir: Path, again: bool) -> None:
    """Raises UserError, one line, if something that the run needs is missing."""
    # Mistakes in the recipe itself are reported first, before any server or model is read.
    settings = _settings(recipe, run_dir)
    _refuse(_missing(settings))
    for stage in stages_of(recipe).values():
        check_settings(stage, recipe, run_dir, again)
    _refuse(_missing(_with_the_rest(settings, recipe, run_dir, to=None)))


def _refuse(missing: list[Requirement]) -> None:
    if missing:
        more = f" (and {len(missing) - 1} more: `retort check RECIPE` lists them)" if missing[1:] else ""
        raise UserError(missing[0].detail + more)


def find(recipe: Recipe, run_dir: Path, to: str | None = None) -> list[Requirement]:
    """Returns what the unfinished stages need, in their order, and what publishing to `to` needs."""
    return _with_the_rest(_settings(recipe, run_dir), recipe, run_dir, to)


def _with_the_rest(
    settings: list[Requirement], recipe: Recipe, run_dir: Path, to: str | None
) -> list[Requirement]:
    # A stage with wrong settings may name the wrong models, so these are not looked up.
    right = [each.stage for each in settings if each.state == "ok"]
    found = [*settings, *_endpoints(recipe, right)]
    found += _models(recipe, run_dir, right)
    charts = _checked("report", "charts", report.check)  # only reported: a run can finish without charts
    found.append(charts if charts.state == "ok" else replace(charts, state="unknown"))
    if to is not None:
        found.append(_checked("publish", to, lambda: _check_target(to, recipe.run)))
    order = [*stages_of(recipe), "report", "publish"]
    unique: dict[tuple[str, ...], Requirement] = {}  # what two stages lack is listed once
    for each in sorted(found, key=lambda each: order.index(each.stage)):
        key = (each.detail,) if each.state == "missing" else (each.stage, each.what, each.detail)
        unique.setdefault(key, each)
    return list(unique.values())


def _missing(found: list[Requirement]) -> list[Requirement]:
    return [each for each in found if each.state == "missing"]


def _settings(recipe: Recipe, run_dir: Path) -> list[Requirement]:
    """Checks the settings of each unfinished stage, as far as this machine alone can tell."""
    found: dict[str, Requirement] = {}
    for name, stage in stages_of(recipe).items():
        remade = any(given.name in found for given in stage.reads)
        if remade or not is_current(stage, recipe, run_dir):
            found[name] = _checked(name, "settings", partial(stage.check, recipe))
    return list(found.values())


def print_table(found: list[Requirement]) -> None:
    """Prints one line each, and the number of missing ones."""
    widths = [max(len(getattr(each, field)) for each in found) for field in ("state", "stage", "what")]
    for each in found:
        columns = zip((each.state, each.stage, each.what), widths, strict=True)
        print("  ".join([*(f"{text:{width}}" for text, width in columns), each.detail]))
    gpus = hardware.gpus()
    has = f"{len(gpus)} x {gpus[0].name}" if gpus else "GPUs unknown" if hardware.has_gpu() else "no GPU"
    missing = len(_missing(found))
    print(f"{missing} missing on this machine ({has}, {hardware.main_memory() / GB:.0f} GB of main memory)")


def _checked(stage: str, what: str, check: Callable[[], object]) -> Requirement:
    """Returns the requirement that a check stands for; it is missing if the check raises UserError."""
    try:
        check()
    except UserError as e:
        return Requirement(stage, what, "missing", str(e))
    return Requirement(stage, what, "ok", "")


def _endpoints(recipe: Recipe, todo: list[str]) -> Iterator[Requirement]:
    """Checks that the servers under `base_url` answer, accept the key and have the model."""
    used: list[tuple[str, Endpoint]] = []
    sampling = "generate" in todo and recipe.samples_problems
    if sampling or _scores_teachers(recipe, todo):
        used += [("generate" if sampling else "evaluate", teacher) for teacher in recipe.teacher]
    if recipe.judge is not None and ("filter" in todo or "evaluate" in todo):
        used.append(("filter" if "filter" in todo else "evaluate", recipe.judge))
    if "train" in todo:
        remote = labels.reader(recipe) if labels.wanted(recipe) else objectives.remote_teacher(recipe)
        used += [("train", remote)] if remote else []
    for stage, model in used:
        if model.base_urls:
            yield _checked(stage, model.model, partial(_reach, model))


def _scores_teachers(recipe: Recipe, todo: list[str]) -> bool:
    return "evaluate" in todo and "teacher" in recipe.evaluate.models


def _reach(model: Endpoint) -> None:
    async def look() -> None:
        async with endpoint.client_for(model, concurrency=1) as client:
            await client.check(say)

    asyncio.run(look())


def _models(recipe: Recipe, run_dir: Path, todo: list[str]) -> Iterator[Requirement]:
    """Checks that models served or trained here exist, have a usable chat template, and fit."""
    asking = {
        "generate": recipe.samples_problems and "generate" in todo,
        "evaluate": _scores_teachers(recipe, todo),
    }
    serving = next((name for name, asks in asking.items() if asks), None)
    served = [teacher for teacher in recipe.teacher if teacher.serve] if serving else []
    recovering = "compress" in todo and recipe.compress.recovery is not None
    student = recipe.student if recovering or {"train", "evaluate"} & set(todo) else None
    scoring = objectives.teachers(recipe) if student and "train" in todo else ()
    names = [teacher.model for teacher in served] + [teacher.model for teacher in scoring]
    queries = [ModelQuery(name=name, model=model_files.resolve(name, say)) for name in names]
    if student:
        beside = tuple(query.model for query in queries[len(served) :])
        queries.append(_student_query(recipe, student, beside))
    facts = model_facts.read_facts(queries)
    for teacher, known in zip(served, facts, strict=False):
        assert serving is not None
        yield from _usable(serving, known)
        for name, table in (("generate", recipe.generate), ("evaluate", recipe.evaluate)):
            if asking[name]:
                yield from fit.lengths(name, teacher, known, table.max_tokens, f"{name}.max_tokens")
        yield _serving(recipe, serving, teacher, known)
    if serving == "generate" and not recipe.ray.generate.gpus:  # evaluate serves one after the other
        yield from fit.together(serving, served)
    for known in facts[len(served) : len(served) + len(scoring)]:
        yield from _usable("train", known)
    if student:
        others = [known.parameters or 0 for known in facts[len(served) : -1]]
        yield from _student(recipe, student, run_dir, facts[-1], others, "train" in todo)
        if recovering:
            yield _recovery(recipe, facts[-1], pruning_of(student))


def _student(
    recipe: Recipe, student: Student, run_dir: Path, known: ModelFacts, scoring: list[int], train: bool
) -> Iterator[Requirement]:
    yield from _usable("train" if train else "evaluate", known)
    faults = {"pruning": known.pruning_fault, "teacher's vocabulary": known.vocabulary_fault}
    for what, fault in faults.items():
        if fault:
            yield Requirement("train" if train else "evaluate", what, "missing", f"{known.name}: {fault}")
    if train:
        if recipe.ray.train is None:
            yield fit.training(recipe.train, in_bf16(recipe.train), known, pruning_of(student), scoring)
        else:
            yield _elsewhere("train", "memory to train", known)
        if shape := known.shape(pruning_of(student)):
            yield fit.disk(run_dir, shape.parameters, recipe.train)
    yield from fit.lengths("evaluate", student, known, recipe.evaluate.max_tokens, "evaluate.max_tokens")
    yield _serving(recipe, "evaluate", student, known)


def _recovery(recipe: Recipe, known: ModelFacts, pruning: Pruning | None) -> Requirement:
    """Whether the training of compress.recovery fits: of all weights, next to the whole student."""
    train, shape = recovery.as_trained(recipe).train, known.shape(pruning)
    found = fit.training(train, in_bf16(train), known, pruning, [shape.parameters] if shape else [])
    return replace(found, stage="compress", what="memory to recover")


def _serving(recipe: Recipe, stage: str, endpoint: Endpoint, known: ModelFacts) -> Requirement:
    """Whether a model fits where it is served: here, or with GPUs of workers of a Ray cluster."""
    if getattr(recipe.ray, stage).gpus:
        return _elsewhere(stage, "memory to serve", known)
    return fit.serving(stage, endpoint, known)


def _elsewhere(stage: str, what: str, known: ModelFacts) -> Requirement:
    detail = f"{known.name}: on machines of the Ray cluster, whose memory is not known here"
    return Requirement(stage, what, "unknown", detail)


def _student_query(recipe: Recipe, student: Student, teachers: tuple[str, ...]) -> ModelQuery:
    """Returns the question whether the student can be pruned, and learn from an example and teachers."""
    prompt = prompts.load(recipe.select.prompt).turns
    reasoning = "Count 2 up from 3." if recipe.select.reasoning == "tags" else None
    answer = Trace.model_construct(reasoning=reasoning, response="It is \\boxed{5}.")
    learned = Message(role="assistant", content=assistant_text(answer))
    return ModelQuery(
        name=student.model,
        model=model_files.resolve(student.model, say),
        teach=tuple(message.model_dump() for message in (*prompt, learned)),
        reasoning=recipe.select.reasoning,
        mixed=bool(recipe.select.mix),
        thinking_switch=recipe.select.thinking_switch,
        served_template=served_template(recipe),
        pruning=pruning_of(student),
        teachers=teachers,
        equal_logits=recipe.train.objective == "on_policy",
    )


def _usable(stage: str, known: ModelFacts) -> Iterator[Requirement]:
    """Checks that a model exists and that its chat template works, and any download."""
    if known.fault:
        yield Requirement(stage, "model", "missing", f"{known.name}: cannot be loaded: {known.fault}")
        return
    if known.unread:
        yield Requirement(stage, "model", "unknown", f"{known.name}: cannot be inspected: {known.unread}")
        return
    if known.template_fault:
        yield Requirement(stage, "chat template", "missing", f"{known.name}: {known.template_fault}")
    else:
        yield Requirement(stage, "chat template", "ok", known.name)
    if download := fit.download(stage, known):
        yield download


def _check_target(to: str, run: str) -> None:
    target = Target.read(to)
    if target.name is not None:
        check_access(target.name)
    elif target.folder is not None:
        check_writable(target.folder, run)
