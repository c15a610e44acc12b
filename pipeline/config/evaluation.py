"""[evaluate]: on which problems models are compared, and how they are sampled."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from pipeline.config.base import Name, Share, Table
from pipeline.config.sources import Source

HELD_OUT = "held_out"


class EvaluationSet(Table):
    """Problems to evaluate on, beside or instead of those that ingest holds out."""

    name: Name
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]  # read as those of [ingest] are, all of them
    prompt: str | None = None  # default: evaluate.prompt
    teacher_prompt: str | None = None  # default: evaluate.teacher_prompt


class Evaluate(Table):
    EXECUTION: ClassVar[frozenset[str]] = frozenset({"concurrency", "max_failed_fraction"})
    held_out: bool = True  # the problems that ingest holds out are a set, called held_out
    sets: tuple[EvaluationSet, ...] = ()
    prompt: str | None = None  # for the base student and the trained one; default: select.prompt
    teacher_prompt: str | None = None  # default: generate.prompt
    # Sampling as in DeepSeek-R1's evaluation (arXiv 2501.12948, section 3), with fewer samples
    samples: Annotated[int, Field(ge=1)] = 4
    temperature: Annotated[float, Field(ge=0)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Annotated[int, Field(ge=1)] = 4096
    concurrency: Annotated[int, Field(ge=1)] = 64
    max_failed_fraction: Share = 0

    @model_validator(mode="after")
    def _sets_have_names_of_their_own(self) -> Evaluate:
        names = [HELD_OUT, *(s.name for s in self.sets)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sets are called {name!r}: give each a name of its own")
        if not (self.held_out or self.sets):
            raise ValueError("held_out = false and no sets: there is nothing to evaluate on")
        return self
