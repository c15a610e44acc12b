"""[generate]: how traces are sampled."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, StrictBool, model_validator

from pipeline.config.base import NotIdentity, SamplingSettings


class Generate(SamplingSettings):
    prompt: str | None = None
    """Name of a file in prompts/ without .txt, or a path that ends in .txt. Required with a [teacher]."""
    samples: PositiveInt | None = None
    """Traces per problem and teacher. Default: 4, or as many as `target_kept` needs."""
    target_kept: PositiveInt | None = None
    """Sample each problem until this many of its traces pass the filters. Set it with `max_samples`, in place
    of `samples`: easy problems then cost less."""
    max_samples: PositiveInt | None = None
    """Maximum traces per problem and teacher with `target_kept`."""
    max_continuations: NonNegativeInt = 0
    """How often reasoning that is truncated at `max_tokens` may be continued; 0 leaves it truncated."""
    logprobs: StrictBool = False
    """Store the log-probability of each sampled token. Needed by the settings that use confidence."""

    max_cost: NotIdentity[PositiveFloat | None] = None
    """Stop once this much is spent, over all attempts; every teacher needs prices. Requests in flight are
    finished and kept. The stage then ends with exit code 3; a higher limit continues it. Default: none."""
    max_tokens_total: NotIdentity[PositiveInt | None] = None
    """The same for tokens, prompt and completion together. For both, a response without token counts counts
    as `max_tokens`, and a server that never sends counts is refused. Default: none."""

    @model_validator(mode="after")
    def _one_way_to_say_how_many(self) -> Generate:
        if (self.target_kept is None) != (self.max_samples is None):
            raise ValueError("target_kept and max_samples are set together")
        if self.target_kept is not None and self.samples is not None:
            raise ValueError("set either samples, or target_kept and max_samples")
        if self.target_kept is not None and self.target_kept > self.most_samples:
            raise ValueError("target_kept is more than max_samples")
        return self

    @property
    def most_samples(self) -> int:
        """The maximum number of samples per problem and teacher."""
        return self.max_samples or self.samples or 4
