"""The generation of a student, from its base and from all that it learns from; refuses what is too deep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pipeline import generations, shipped
from pipeline.config import Recipe
from pipeline.engine.query import Part, reading, rows_of
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.inference import model_files
from pipeline.rows import Example, Trace
from pipeline.train import labels
from pipeline.train.objectives import OBJECTIVES, remote_teacher, teachers


class Source(NamedTuple):
    """A model that the student learns from, by its traces or next to it."""

    name: str
    generation: str | None


def of_student(recipe: Recipe, inputs: Mapping[str, Output], start: str) -> str:
    """The generation that the student will have. Raises UserError above `train.max_generation`.

    `start`: the model with whose weights the training starts.
    """
    return _checked(recipe, start, [*_behind_examples(recipe, inputs), *_beside(recipe, True)], True)


def check(recipe: Recipe) -> None:
    """Raises UserError for a student that would be too deep, as far as that is known before any trace."""
    asked = [
        Source(t.display_name, _generation(t.model, t.generation, t.serve is not None, False))
        for t in (recipe.teacher if recipe.samples_problems else ())
    ]
    assert recipe.student is not None, "train checks it"
    if sources := [*asked, *_beside(recipe, False)]:
        _checked(recipe, recipe.student.model, sources, False)


def _checked(recipe: Recipe, start: str, sources: list[Source], download: bool) -> str:
    student, most = recipe.student, recipe.train.max_generation
    assert student is not None, "train checks it"
    stated = student.generation if start == student.model else None
    base = _generation(start, stated, True, download)
    found = generations.of_student(base, {source.generation for source in sources})
    if generations.least(found) > most:
        first = Source(f"its base {start}", base)
        deepest = max([first, *sources], key=lambda source: generations.least(source.generation))
        own, theirs = generations.words(found), generations.words(deepest.generation)
        raise UserError(
            f"the student would be of generation {own}, over train.max_generation = {most}: {deepest.name} "
            f"is of generation {theirs}. Models that learn from models lose rare answers: take a teacher of "
            f"an earlier generation, or raise the limit ({shipped.page('training.md')}, Generations)"
        )
    return found


def _generation(model: str, stated: int | None, here: bool, download: bool) -> str | None:
    """As the recipe states it, or as the model's folder does; a model behind a URL has none here."""
    if stated is not None:
        return str(stated)
    return model_files.generation(model, download) if here else None


def _beside(recipe: Recipe, download: bool) -> Iterator[Source]:
    """The models whose probabilities are learned: next to the student, or behind a server that reads."""
    stated = {teacher.model: teacher.generation for teacher in recipe.teacher}
    for teacher in teachers(recipe):
        yield Source(teacher.model, _generation(teacher.model, stated.get(teacher.model), True, download))
    asked = labels.reader(recipe) if labels.wanted(recipe) else remote_teacher(recipe)
    if asked:
        here = asked.serve is not None
        yield Source(asked.model, _generation(asked.model, stated.get(asked.model), here, download))


def _behind_examples(recipe: Recipe, inputs: Mapping[str, Output]) -> Iterator[Source]:
    """The teachers of the examples' traces; with pairs also those of the problems' other traces.

    Dialogues of other data sets are of unknown models.
    """
    traces, examples = ([Part(shard) for shard in inputs[name].shards()] for name in ("generate", "select"))
    key = "problem_id" if OBJECTIVES[recipe.train.objective].pairs else "id"
    with reading([path for part in (*traces, *examples) for path in part.paths]) as connection:
        columns = (key, "teacher", generations.COLUMN)
        made, used = (
            rows_of(connection, row, parts, names)
            for row, parts, names in ((Trace, traces, columns), (Example, examples, (key, "kind")))
        )
        distinct = f"select distinct teacher, {generations.COLUMN}"
        found = f"{distinct} from ({made}) semi join ({used}) using ({key}) order by all"
        for name, generation in connection.execute(found).fetchall():
            yield Source(name, generation)
        if connection.execute(f"select 1 from ({used}) where kind = 'chat' limit 1").fetchall():
            yield Source("the chat data", None)
