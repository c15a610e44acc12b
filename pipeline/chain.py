"""Runs the rounds or the cascade of a recipe: a run for each step, whose teacher is the student before.

The run of the recipe's own name holds the problems. Step 1 is taught by the recipe's teacher, each later one
by the student of its parent. A step takes over what is still valid of its parent: the problems, the scores of
the untrained student, the traces of a teacher that teaches again. So the same command resumes after a stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.check import requirements
from pipeline.check.fit import Requirement
from pipeline.config import Recipe
from pipeline.config.chain import Assistant, Parent, Rounds
from pipeline.config.endpoints import Endpoint, Student, Teacher
from pipeline.engine.execute import DONE, execute
from pipeline.engine.options import Options
from pipeline.engine.progress import say
from pipeline.inference import model_files
from pipeline.inference.pruning import Pruning, pruning_of
from pipeline.inspect import chain_table
from pipeline.run_stages import exit_code
from pipeline.stages import STAGES, stages_of
from pipeline.train import model_facts
from pipeline.train.model_facts import ModelFacts, ModelQuery
from pipeline.train.stage import TRAIN, model_folder, student_of

WIDE = 5  # times: a student that much smaller than its teacher learns less (Mirzadeh et al., 1902.03393)


def run_chain(recipe: Recipe, runs: Path, options: Options) -> int:
    """Runs what is missing of all steps; returns an exit code, and prints the table of the steps.

    Raises UserError for what any step lacks before the first one starts, and whatever a stage raises.
    """
    for step in _unlike(recipe, runs):
        requirements.require(step, runs / step.run, options.again)
    for line in gaps(recipe):
        say(line)
    if (code := execute(STAGES["ingest"], recipe, runs / recipe.run, options)) != DONE:
        return code
    for i, name in enumerate(recipe.chain):
        say(f"{name}: {i + 1} of {len(recipe.chain)}")
        step = step_recipe(recipe, i, runs)
        if (code := exit_code(step, tuple(stages_of(step)), runs, options, whole=True)) != DONE:
            return code
        if chain_table.stopped_after(recipe, chain_table.steps_of(recipe, runs)[: i + 1]):
            break
    chain_table.print_chain(recipe, chain_table.steps_of(recipe, runs))
    return DONE


def requirements_of(recipe: Recipe, runs: Path, to: str | None) -> list[Requirement]:
    """What a recipe needs; of a chain, what its steps need before their teachers are trained."""
    steps = _unlike(recipe, runs) if recipe.chain else (recipe,)
    found = (each for step in steps for each in requirements.find(step, runs / step.run, to))
    return list(dict.fromkeys(found))


def step_recipe(recipe: Recipe, step: int, runs: Path) -> Recipe:
    """The recipe of a step, from 0. Until its parent is trained, the recipe's own teacher stands for that."""
    changes: dict[str, Any] = {"run": recipe.chain[step], "student": _students(recipe)[step]}
    changes |= {"reuse": recipe.reuse or recipe.run, "rounds": None, "cascade": ()}
    return recipe.model_copy(update=changes | (_later(recipe, step, runs) if step else {}))


def _later(recipe: Recipe, step: int, runs: Path) -> dict[str, Any]:
    """What differs in a step that has a parent."""
    before, rule = recipe.chain[step - 1], recipe.rounds or recipe.cascade[step - 1]
    goes_on = isinstance(rule, Rounds) and rule.start == "last"
    models = ("student",) if goes_on else ("base", "student")  # earlier steps score the others
    default = recipe.generate.prompt if rule.teacher == "first" else recipe.select.prompt
    changes: dict[str, Any] = {
        "reuse": before,
        "generate": recipe.generate.model_copy(update={"prompt": rule.prompt or default}),
        # Drafts are compared with the teacher's answers, which the first step alone samples
        "evaluate": recipe.evaluate.model_copy(update={"models": models, "draft_tokens": None}),
    }
    trained = TRAIN.output(runs / before)
    if trained.complete and (manifest := trained.manifest()):
        name = f"{before}-student-{manifest.content_id[:8]}"
        student = _teacher(_students(recipe)[step - 1], name, model_folder(runs / before))
        teachers = {"student": (student,), "first": recipe.teacher, "both": (*recipe.teacher, student)}
        changes["teacher"] = teachers[rule.teacher]
        changes["parent"] = Parent(run=before, student=manifest.content_id, start=goes_on)
    return changes


def _teacher(student: Student, name: str, folder: Path) -> Teacher:
    """A trained student as a teacher. Its name tells which training made it, so traces are never mixed."""
    served = {field: getattr(student, field) for field in Endpoint.model_fields}
    return Teacher(**served | {"model": str(folder.absolute())}, name=name, licence=student.licence)


def _students(recipe: Recipe) -> list[Student]:
    """The student of each step."""
    last = student_of(recipe)
    if recipe.rounds:
        return [last] * recipe.rounds.n
    return [*(_assistant(each, last) for each in recipe.cascade), last]


def _assistant(table: Assistant, last: Student) -> Student:
    """The student of a [[cascade]] table. Its size is its own; origin and licence go with the model."""
    changes: dict[str, Any] = {"layers": table.layers, "vllm": table.vllm or last.vllm}
    changes |= {"layers_by": "spacing", "heads": None, "intermediate_size": None}
    if table.model not in (None, last.model):
        changes |= {"model": table.model, "generation": None, "licence": None}
    return last.model_copy(update=changes)


def _unlike(recipe: Recipe, runs: Path) -> Iterator[Recipe]:
    """The steps to check at the start: the first, and those of other models or prompts that are not begun."""
    for i, name in enumerate(recipe.chain[: 2 if recipe.rounds else None]):
        if i == 0 or not (runs / name).exists():
            yield step_recipe(recipe, i, runs)


def gaps(recipe: Recipe) -> Iterator[str]:
    """A line for each step of a cascade with the sizes, and a warning where a student is far smaller."""
    if not recipe.cascade:
        return
    served = [teacher for teacher in recipe.teacher if teacher.serve]
    models = [(t.model, None) for t in served] + [(s.model, pruning_of(s)) for s in _students(recipe)]
    queries = [ModelQuery(name=name, model=model_files.resolve(name, say)) for name, _ in models]
    sizes = [
        _parameters(facts, pruning)
        for facts, (_, pruning) in zip(model_facts.read_facts(queries), models, strict=True)
    ]
    known = [size for size in sizes[: len(served)] if size]
    chain = [max(known) if len(known) == len(recipe.teacher) else None, *sizes[len(served) :]]
    for name, above, size in zip(recipe.chain, chain, chain[1:], strict=False):
        yield f"{name}: {gap(above, size)}"


def gap(above: int | None, size: int | None) -> str:
    """How much smaller a student is than its teacher, both in parameters."""
    if above is None or size is None:
        return f"teacher of {_millions(above)}, student of {_millions(size)}"
    times = above / size
    wide = f"; more than {WIDE} times: a further [[cascade]] student between them may help"
    return f"teacher of {_millions(above)}, student of {_millions(size)}, {times:.1f} times smaller" + (
        wide if times > WIDE else ""
    )


def _millions(parameters: int | None) -> str:
    return "unknown size" if parameters is None else f"{parameters / 1e6:,.1f} million parameters"


def _parameters(facts: ModelFacts, pruning: Pruning | None) -> int | None:
    shape = facts.shape(pruning)
    return shape.parameters if shape else None
