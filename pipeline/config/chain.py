"""[rounds], [[cascade]] and [parent]: runs derived from one recipe, where a student teaches the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from pipeline import shipped
from pipeline.config.base import Name, NotIdentity, RecipeTable, Scalar

if TYPE_CHECKING:
    from pipeline.config import Recipe
    from pipeline.config.train import Train

Number = Annotated[int, Field(ge=2, le=50)]


class Rounds(RecipeTable):
    """Several rounds of distillation, each a run of its own, NAME-round-1 and so on."""

    n: Number
    """Maximum number of rounds."""
    teacher: Literal["student", "first", "both"] = "student"
    """The teacher from the second round on: the student of the round before, the recipe's own teacher, or
    both."""
    start: Literal["base", "last"] = "base"
    """The weights with which each training starts: the untrained student's, or the last round's student's."""
    prompt: str | None = None
    """Prompt of the teachers from the second round on. Default: `select.prompt`, with which the student was
    trained, or `generate.prompt` for the recipe's own teacher alone."""
    stop_without_gain: NotIdentity[bool] = True
    """Stop after a round whose student is not shown to be better than the one before, by the paired interval
    on the first evaluated set. The first round is compared with the untrained student."""


class Assistant(RecipeTable):
    """A student between the teacher and [student]. Each one teaches the next; [student] is the last."""

    model: str | None = None
    """The model to fine-tune, written as `student.model`. Default: the student's."""
    layers: PositiveInt | None = None
    """Keep only this many of its layers, evenly spaced, before training. Default: all."""
    vllm: NotIdentity[dict[str, Scalar | dict[str, Any] | list[Any]] | None] = None
    """Engine arguments of vLLM for it, written as `student.vllm`. Default: the student's."""
    teacher: Literal["student", "both"] = "student"
    """The teacher of the next student: this one alone, or also the recipe's own teacher."""
    prompt: str | None = None
    """Prompt with which it teaches. Default: `select.prompt`, with which it was trained."""


class Parent(RecipeTable):
    """The run before this one in a chain. `retort run` writes it into recipe.json."""

    run: Name
    """Name of the run, in the same folder."""
    student: str
    """Content id of its training. A student that was trained again is another one."""
    start: bool = False
    """Start the training with the weights of its student."""


def names(recipe: Recipe) -> tuple[str, ...]:
    """The names of the runs that a recipe stands for, in their order; () for a single run."""
    if recipe.rounds:
        return tuple(f"{recipe.run}-round-{i + 1}" for i in range(recipe.rounds.n))
    steps = len(recipe.cascade) + 1 if recipe.cascade else 0
    return tuple(f"{recipe.run}-step-{i + 1}" for i in range(steps))


def check(recipe: Recipe) -> None:
    """Raises ValueError for a chain that cannot run, or whose runs would all be the same."""
    if not names(recipe):
        return
    table = "rounds" if recipe.rounds else "cascade"
    if recipe.rounds and recipe.cascade:
        raise ValueError("rounds and cascade: a recipe has one of them")
    if recipe.student is None:
        raise ValueError(f"{table} needs a student: add a table [student] with model = ...")
    if not (recipe.teacher and recipe.samples_problems):
        raise ValueError(f"{table} needs a teacher and problems to sample: given traces are not made again")
    if not {"base", "student"} <= set(recipe.evaluate.models) or "reasoning" not in recipe.modes:
        raise ValueError(
            f'{table} compares students that reason: evaluate.models needs "base" and "student", and '
            'evaluate.modes "reasoning"'
        )
    deepest, most = len(names(recipe)), recipe.train.max_generation
    if deepest > most and not (recipe.rounds and recipe.rounds.teacher == "first"):
        raise ValueError(
            f"{table}: the last of {deepest} students would be of generation {deepest}, over "
            f"train.max_generation = {most}; raise it ({shipped.page('training.md')}, Generations)"
        )
    if recipe.rounds and recipe.rounds.teacher == "first" and recipe.rounds.start == "base":
        raise ValueError(
            'rounds.teacher = "first" with start = "base" repeats the same run: set start = "last", or '
            "another teacher"
        )
    rules = (recipe.rounds,) if recipe.rounds else recipe.cascade
    if any(rule.teacher == "both" for rule in rules) and (setting := _one_teacher(recipe.train)):
        raise ValueError(f'{table}: with teacher = "both" there are two to learn from: set {setting}')
    both = any(rule.teacher == "both" and not rule.prompt for rule in rules)
    if both and recipe.generate.prompt != recipe.select.prompt:
        raise ValueError(
            f"{table}: the recipe's teacher has generate.prompt = {recipe.generate.prompt!r}, and a student "
            f"that teaches select.prompt = {recipe.select.prompt!r}: set {table}.prompt to the one for both"
        )


def _one_teacher(train: Train) -> str | None:
    """The setting that names the only model whose predictions are learned, where it is missing."""
    named = {"topk_kd": train.topk_kd.teacher, "on_policy": train.on_policy.teacher}
    if train.objective in named and not named[train.objective]:
        return f"train.{train.objective}.teacher"
    has_terms = train.features or train.attention_transfer or train.relations
    if has_terms and train.objective != "logit_kd" and not train.term_teacher:
        return "train.term_teacher"
    return None
