"""[compress]: the smaller forms of the student that are made after the training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from pipeline.config.base import NotIdentity, RecipeTable

SchemeName = Literal[
    "w8a8", "w4a16", "fp8", "nvfp4", "gguf-f16", "gguf-q8_0", "gguf-q4_k_m", "onnx", "onnx-int4"
]


class Recovery(RecipeTable):
    """A short training of the rounded student; the whole student is its teacher, on the training examples."""

    epochs: PositiveFloat = 1
    """Passes over the examples; it may be a fraction. Batch size and all else are those of [train]."""
    learning_rate: PositiveFloat = 1e-5
    """Peak learning rate. Small ones change nothing: a weight has to cross half a step of its group."""


class Compress(RecipeTable):
    schemes: tuple[SchemeName, ...] = ()
    """The forms to make; docs/compressing.md says what each is, and which programs serve it. Default: none,
    and the stage is skipped."""
    calibration_examples: PositiveInt = 128
    """Kept traces on which w8a8, w4a16 and nvfp4 are calibrated: the training examples, evenly spaced."""
    max_length: Annotated[int, Field(ge=16)] = 2048
    """Tokens of a calibration example that are used; the rest of a longer one is left out."""
    group_size: PositiveInt | None = None
    """Weights of w4a16 that share a scale. Default: the largest of 128, 64 and 32 that divides the widths of
    all layers."""
    recovery: Recovery | None = None
    """Train the student of w4a16 after the rounding, to answer as the whole one. Default: off; an empty table
    [compress.recovery] turns it on."""
    python: NotIdentity[str | None] = None
    """Python interpreter with the tools that compress. Default: the environment variable
    RETORT_COMPRESS_PYTHON, or the interpreter that `./run.sh setup compress` installs."""

    @field_validator("schemes")
    @classmethod
    def _each_once(cls, schemes: tuple[SchemeName, ...]) -> tuple[SchemeName, ...]:
        for scheme in schemes:
            if schemes.count(scheme) > 1:
                raise ValueError(f"{scheme!r} is listed twice")
        return schemes

    @model_validator(mode="after")
    def _recovery_has_its_scheme(self) -> Compress:
        if self.recovery and "w4a16" not in self.schemes:
            raise ValueError("recovery is for the scheme w4a16, which schemes does not list")
        return self
