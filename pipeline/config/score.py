"""[score]: a small model reads the kept traces, to tell which of them suit the student."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from pipeline.config.base import NotIdentity, RecipeTable


class Scoring(RecipeTable):
    """The untrained student reads every kept trace once. An empty table [score] turns it on."""

    model: str | None = None
    """The model that reads, written as `student.model`. Default: the recipe's student."""
    student_samples: NonNegativeInt = 0
    """Samples of the untrained student for each training problem, with the settings of [evaluate]. They tell
    `select.student_pass_rate` what it solves already. Default: none."""
    local: bool = True
    """Also measure the local naturalness, which reads each step again with the few steps before it. It takes
    several times as long as the rest."""
    window: NonNegativeInt = 4
    """Steps before a step that the local naturalness shows the model, besides the question. A step is a
    sentence or a line."""
    max_rank: PositiveInt = 100
    """Ranks of tokens above this count as this, so that few very unlikely tokens do not decide."""
    max_length: Annotated[int, Field(ge=16)] = 32_768
    """Maximum tokens of a trace with its question. Longer traces are counted and get no scores."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Number format of weights and computation; auto takes bf16 where the hardware computes in it."""
    batch_tokens: NotIdentity[PositiveInt] = 8192
    """Tokens that the model reads at once, padding included. Lower it if memory runs out; the scores are the
    same up to rounding."""
