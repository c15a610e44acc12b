"""The recipe as frozen pydantic models, a table for each part; pipeline/config/load.py reads them from TOML.

What each setting means stands beside it, in the files here. `identity()` gives the part of a table that
changes a stage's output; names in a table's EXECUTION say how the work is done (ports, concurrency) and never
enter it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from pipeline.config.base import Name, Table
from pipeline.config.endpoints import Judge, Student, Teacher
from pipeline.config.evaluation import Evaluate
from pipeline.config.sources import Ingest, free
from pipeline.config.traces import Filter, Generate, Select
from pipeline.config.training import Train


def _one_or_more(tables: Any) -> Any:
    """[teacher] is one, [[teacher]] an array of them."""
    return [tables] if isinstance(tables, dict) else tables


class Recipe(Table):
    run: Name  # the run's folder is data/runs/<run>, or what --runs says
    seed: int = 0
    ingest: Ingest
    teacher: Annotated[tuple[Teacher, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
    generate: Generate
    filter: Filter = Filter()
    judge: Judge | None = None  # needed for sources with answer_type = "free"
    select: Select = Select()
    student: Student | None = None  # None: nothing is trained, and evaluate has the teachers alone
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _names_tell_teachers_apart(self) -> Recipe:
        names = [teacher.display_name for teacher in self.teacher]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two teachers are called {name!r}: give each a name of its own")
        return self

    @property
    def judged(self) -> str | None:
        """A source whose answers only a model can judge; None where there is none or the rules do not ask."""
        return free(self.ingest.sources) if "correct" in self.filter.rules else None

    @model_validator(mode="after")
    def _free_answers_have_a_judge(self) -> Recipe:
        asked = (free(s.sources) for s in self.evaluate.sets if "correct" in self.filter.rules)
        source = self.judged or next(filter(None, asked), None)
        why = f'the source {source!r} has answer_type = "free" and the rule "correct" judges it'
        if source and self.judge is None:
            raise ValueError(f"{why}: that takes a judge model, as a table [judge] with model and base_url")
        if self.judged and self.generate.target_kept is not None:
            raise ValueError(
                f"{why}: its judge is asked after generate, so target_kept cannot be; set generate.samples"
            )
        return self
