"""The recipe as frozen pydantic models, one for each table; pipeline/config/load.py reads it from TOML.

The string under a setting documents it; docs/recipe.md is made from these strings. A setting that changes
the output of no stage is typed `NotIdentity[...]`, so a run can go on with another value of it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, model_validator

from pipeline.config import chain
from pipeline.config.base import Name, NotIdentity, RecipeTable
from pipeline.config.chain import Assistant, Parent, Rounds
from pipeline.config.cluster import Ray
from pipeline.config.compress import Compress
from pipeline.config.endpoints import Judge, Student, Teacher
from pipeline.config.evaluate import Evaluate
from pipeline.config.filters import Filter
from pipeline.config.generate import Generate
from pipeline.config.ingest import Ingest, TracesSource
from pipeline.config.score import Scoring
from pipeline.config.select import Select
from pipeline.config.sources import free_text_source
from pipeline.config.train import Train
from pipeline.errors import UserError
from pipeline.model_rows import Mode

# The stage that each table of the recipe belongs to. recipe.json keeps a table as its stage was made.
TABLES = {
    "ingest": ("ingest", "seed"),
    "generate": ("generate", "teacher"),
    "filter": ("filter", "judge"),
    "score": ("score",),
    "select": ("select",),
    "train": ("train", "student"),
    "compress": ("compress",),
    "evaluate": ("evaluate",),
}


def _as_array(tables: Any) -> Any:
    """Reads a single table, [teacher], as an array of one, [[teacher]]."""
    return [tables] if isinstance(tables, dict) else tables


class Recipe(RecipeTable):
    run: Name
    """Name of the run. Its folder is data/runs/NAME, or NAME in the folder that `--runs` gives."""
    reuse: NotIdentity[Name | None] = None
    """Name of another run in the same folder. Traces of it that are valid here are taken over, not paid
    again: those of the same model, prompt and sampling settings. Problems of the same sources are taken over,
    too. Default: none."""
    seed: int = 0
    """Seed of the samples, of which problems are held out (`ingest.held_out`), of the split into examples for
    training and validation, and of the training."""
    ingest: Ingest
    """Where the problems come from."""
    teacher: Annotated[tuple[Teacher, ...], BeforeValidator(_as_array)] = ()
    """The model whose reasoning is distilled; an array of tables, [[teacher]], for several. Required unless
    all sources to train on have `kind = "traces"`."""
    generate: Generate = Generate()
    """How traces are sampled from the teacher."""
    filter: Filter = Filter()
    """Which traces are kept."""
    judge: Judge | None = None
    """The model that grades free-text answers; required for sources with `answer_type = "free"`."""
    score: Scoring | None = None
    """Which kept traces suit the student, as it reads them before it is trained. Default: off."""
    select: Select = Select()
    """Which kept traces become training examples."""
    student: Student | None = None
    """The model to fine-tune. Without it nothing is trained and evaluate scores the teachers alone."""
    train: Train = Train()
    """How the student is fine-tuned."""
    compress: Compress = Compress()
    """Which smaller forms of the trained student are made."""
    evaluate: Evaluate = Evaluate()
    """How base, student and teacher are compared."""
    rounds: Rounds | None = None
    """Several rounds, in which students become teachers. Default: off, one run."""
    cascade: tuple[Assistant, ...] = ()
    """Students between the teacher and [student], the largest first, each a table [[cascade]]. Each step is a
    run of its own, NAME-step-1 and so on. Default: none."""
    parent: Parent | None = None
    """The run before this one in a chain of rounds or of a cascade, which `retort run` records here."""
    ray: Ray = Ray()
    """The workers of each stage on a Ray cluster, for `--ray`."""

    @model_validator(mode="after")
    def _teachers_have_different_names(self) -> Recipe:
        names = [teacher.display_name for teacher in self.teacher]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two teachers are called {name!r}: give each its own name")
        return self

    @model_validator(mode="after")
    def _only_a_student_is_compressed(self) -> Recipe:
        if self.compress.schemes and self.student is None:
            raise ValueError("compress.schemes needs a student: add a table [student] with model = ...")
        return self

    @model_validator(mode="after")
    def _a_chain_can_run(self) -> Recipe:
        chain.check(self)
        return self

    @property
    def chain(self) -> tuple[str, ...]:
        """The names of the runs of its rounds or its cascade, in their order; () for a single run."""
        return chain.names(self)

    def check_single(self) -> None:
        """Raises UserError for a recipe of several runs."""
        if self.chain:
            names = ", ".join(self.chain)
            raise UserError(f"{self.run} is a chain, which `retort run` does as a whole; its runs: {names}")

    @property
    def samples_problems(self) -> bool:
        """Whether generate asks the teacher: some source has problems to train on, and no traces of them."""
        return any(
            source.split != "held_out" and not isinstance(source, TracesSource)
            for source in self.ingest.sources
        )

    def check_logprobs(self, setting: str) -> None:
        """Raises UserError if some traces to train on lack log-probabilities, which a setting needs."""
        given = next((s for s in self.ingest.sources if isinstance(s, TracesSource)), None)
        if given is not None:
            raise UserError(
                f"{setting} needs log-probabilities, which the traces of {given.name or given.path} lack"
            )
        if not self.generate.logprobs:
            raise UserError(f"{setting} needs generate.logprobs = true")

    @model_validator(mode="after")
    def _a_teacher_has_a_prompt(self) -> Recipe:
        if self.teacher and self.generate.prompt is None:
            raise ValueError("missing key 'generate.prompt': the prompt of the teacher")
        return self

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The forms of answers that base and student are asked for in evaluate."""
        return self.evaluate.modes or (("reasoning", "plain") if self.select.plain_share else ("reasoning",))

    @model_validator(mode="after")
    def _only_a_student_has_modes(self) -> Recipe:
        if self.evaluate.modes and self.student is None:
            raise ValueError("evaluate.modes needs a student: teachers are asked as generate.prompt says")
        return self

    @property
    def judged_source(self) -> str | None:
        """The first training source whose answers need the LLM judge; None without one."""
        return free_text_source(self.ingest.sources) if "correct" in self.filter.rules else None

    @model_validator(mode="after")
    def _free_text_answers_have_a_judge(self) -> Recipe:
        evaluated = (
            free_text_source(s.sources) for s in self.evaluate.sets if "correct" in self.filter.rules
        )
        source = self.judged_source or next(filter(None, evaluated), None)
        why = f'the source {source!r} has answer_type = "free", which the filter "correct" leaves to a judge'
        if source and self.judge is None:
            raise ValueError(f"{why}: add a table [judge] with model and base_url")
        if self.judged_source and self.generate.target_kept is not None:
            raise ValueError(
                f"{why}: the judge runs after generate, so target_kept cannot be used; set generate.samples"
            )
        return self
