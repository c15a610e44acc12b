"""[evaluate]: the problems that models are compared on, and how the models are sampled."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, model_validator

from pipeline.config.base import Name, NotIdentity, RecipeTable, SamplingSettings
from pipeline.config.sources import Source
from pipeline.model_rows import Mode

HELD_OUT = "held_out"
Role = Literal["teacher", "base", "student"]


class EvaluationSet(RecipeTable):
    """A named set of problems to evaluate on, such as a public benchmark."""

    name: Name
    """Name of the set in scores and tables."""
    benchmark: NotIdentity[str | None] = None
    """A usual benchmark in place of `name` and `sources`: aime24, aime25, math500, gsm8k, gpqa_diamond,
    mmlu_pro, humaneval, mbpp or ifeval. docs/evaluating.md says what each reads."""
    path: NotIdentity[str | None] = None
    """Local copy of the benchmark: a file, or a folder for the `datasets` library. Default: the hub."""
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Where the problems come from, written as the sources of [ingest] are. All of them are used. A source
    { benchmark = "math500" } is that benchmark."""
    prompt: str | None = None
    """Prompt of base and student on this set. Default: `evaluate.prompt`."""
    teacher_prompt: str | None = None
    """Prompt of the teachers on this set. Default: `evaluate.teacher_prompt`."""

    @model_validator(mode="before")
    @classmethod
    def _benchmark_is_its_source(cls, given: Any) -> Any:
        """Replaces `benchmark` and `path` by the name and the source that they stand for."""
        if not isinstance(given, dict) or (given.get("benchmark") is None and given.get("path") is None):
            return given
        if given.get("benchmark") is None:
            raise ValueError("path is the local copy of a benchmark; other files are sources")
        if given.get("sources"):
            raise ValueError("set either benchmark or sources")
        source = {key: given.get(key) for key in ("benchmark", "path")}
        rest = {key: value for key, value in given.items() if key not in source}
        return {"name": given["benchmark"], "sources": [source]} | rest


class Evaluate(SamplingSettings):
    held_out: bool = True
    """Evaluate on the problems that ingest holds out, as a set named held_out."""
    sets: tuple[EvaluationSet, ...] = ()
    """More sets, each a table [[evaluate.sets]]. Default: none."""
    models: Annotated[tuple[Role, ...], Field(min_length=1)] = ("teacher", "base", "student")
    """Which models are scored. Without "teacher" a paid teacher is not asked again."""
    prompt: str | None = None
    """Prompt of base and student. Default: `select.prompt`."""
    teacher_prompt: str | None = None
    """Prompt of the teachers. Default: `generate.prompt`."""
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)] | None = None
    """Which forms of answers base and student are asked for: "reasoning", and "plain" with thinking switched
    off (`select.thinking_switch`). Default: both if [[select.mix]] has plain examples, else reasoning."""
    samples: PositiveInt = 4
    """Samples per problem and model. More samples narrow the confidence intervals; pass@k needs k of them."""
    draft_tokens: PositiveInt | None = None
    """Also measure what base and student are worth as drafts of the teacher in speculative decoding, for this
    many proposed tokens. Needs the teacher's weights, with the student's vocabulary. Default: off."""

    @model_validator(mode="after")
    def _sets_have_different_names(self) -> Evaluate:
        names = [HELD_OUT, *(s.name for s in self.sets)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two sets are called {name!r}: give each its own name")
            if re.fullmatch(r"[0-9]{4}", name):  # previous/evaluate/0001 holds earlier scores
                raise ValueError(f"the name of a set cannot be four digits: call it set-{name}, for example")
        if not (self.held_out or self.sets):
            raise ValueError("held_out = false and no sets: there is nothing to evaluate on")
        return self
