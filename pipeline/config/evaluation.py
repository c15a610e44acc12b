"""[evaluate]: on which problems models are compared, and how they are sampled."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from pipeline.config.base import Share, Table


class Evaluate(Table):
    EXECUTION: ClassVar[frozenset[str]] = frozenset({"concurrency", "accept_failed"})
    prompt: str | None = None  # for the base student and the trained one; default: select.prompt
    teacher_prompt: str | None = None  # default: generate.prompt
    samples: Annotated[int, Field(ge=1)] = 4
    temperature: Annotated[float, Field(ge=0)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Annotated[int, Field(ge=1)] = 4096
    concurrency: Annotated[int, Field(ge=1)] = 64
    accept_failed: Share = 0
