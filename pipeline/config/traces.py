"""[generate], [filter], [select]: which traces are drawn, which are kept, which are learned from."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Share, Table
from pipeline.config.sources import Source


class Generate(Table):
    EXECUTION: ClassVar[frozenset[str]] = frozenset({"concurrency", "max_failed_fraction"})
    prompt: str  # a file of prompts/ without .txt, or a path to one
    samples: Annotated[int, Field(ge=1)] | None = None  # traces a problem, of each teacher; default: 4
    target_kept: Annotated[int, Field(ge=1)] | None = None  # or: draw until so many are kept by the filters,
    max_samples: Annotated[int, Field(ge=1)] | None = None  # and this many at most
    temperature: Annotated[float, Field(ge=0)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Annotated[int, Field(ge=1)] = 4096  # of one request
    max_continuations: Annotated[int, Field(ge=0)] = 0  # how often a thought cut at max_tokens is continued
    logprobs: Annotated[int, Field(ge=0)] | None = None  # keep those of the k likeliest tokens; 0: mean only
    concurrency: Annotated[int, Field(ge=1)] = 64  # requests in flight at each teacher, at most
    max_failed_fraction: Share = 0  # share of the traces that may be failures for the stage to count as done

    @model_validator(mode="after")
    def _one_way_to_say_how_many(self) -> Generate:
        if (self.target_kept is None) != (self.max_samples is None):
            raise ValueError("target_kept and max_samples are set together")
        if self.target_kept is not None and self.samples is not None:
            raise ValueError("set either samples, or target_kept and max_samples")
        if self.target_kept is not None and self.target_kept > self.most:
            raise ValueError("target_kept is more than max_samples")
        return self

    @property
    def most(self) -> int:
        """Samples a problem, of each teacher, at most."""
        return self.max_samples or self.samples or 4


class Majority(Table):
    """Problems without a reference: what most of their samples answer is taken for right."""

    margin: Annotated[float, Field(gt=0, le=1)] = 0.5  # share of the winner less that of the second
    votes: Annotated[int, Field(ge=2)] = 4  # samples with an answer, at least


class Difficulty(Table):
    """Problems whose share of right samples lies in this band."""

    low: Share = 0.1
    high: Share = 0.9
    judged: Annotated[int, Field(ge=1)] = 2  # samples judged right or wrong, at least

    @model_validator(mode="after")
    def _band(self) -> Difficulty:
        if self.low > self.high:
            raise ValueError("low is more than high: no problem is so hard and so easy")
        return self


class Contamination(Table):
    """Traces that share a run of words with a problem of an evaluation set, anywhere in them."""

    against: Annotated[tuple[Source, ...], Field(min_length=1)]  # read as the sources of [ingest] are
    # words in a run
    ngrams: Annotated[tuple[Annotated[int, Field(ge=4, le=50)], ...], Field(min_length=1)] = (8, 13)
    common: Annotated[int, Field(ge=1)] = 10  # a run in more evaluation problems than this says nothing


class Duplicates(Table):
    """Problems, and traces of one problem or several, that say the same; the first that is kept stays."""

    problems: Annotated[float, Field(ge=0.3, le=1)] | None = 0.8  # Jaccard similarity of their shingles
    traces: Annotated[float, Field(ge=0.3, le=1)] | None = 0.8
    ngram: Annotated[int, Field(ge=1, le=50)] = 5  # words of a shingle


class Filter(Table):
    EXECUTION: ClassVar[frozenset[str]] = frozenset({"max_rejected_fraction"})
    # filter name -> its parameters; every filter runs on every trace, kept = all pass. Those that a recipe
    # names are laid over the default ones: `no_leak = true` adds one, `correct = false` switches one off
    rules: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = {
        "finished": {},
        "single_reasoning": {},
        "final_answer": {},
        "correct": {},
    }
    majority: Majority | None = None
    difficulty: Difficulty | None = None
    contamination: Contamination | None = None
    duplicates: Duplicates | None = None
    # share of the traces that one rule may reject, or not tell of, before the run stops to ask
    max_rejected_fraction: Share = 0.98

    @model_validator(mode="after")
    def _difficulty_has_verdicts(self) -> Filter:
        if self.difficulty and "correct" not in self.rules and self.majority is None:
            raise ValueError(
                "difficulty counts right samples: it needs filter.rules.correct or filter.majority"
            )
        return self


class Select(Table):
    per_problem: Annotated[int, Field(ge=1)] = 4  # kept traces of a problem, at most
    # Which of them; "confident" needs generate.logprobs
    prefer: Literal["first", "confident", "short"] = "first"
    # "tags": the student learns to think in <think> tags, then to answer. "none": it learns the response
    # alone, as of teachers that reason in plain text; a thought apart is left out, and no rule asks for one
    reasoning: Literal["tags", "none"] = "tags"
    validation: Share = 0.05  # share of the problems whose examples measure the training
    prompt: str = "plain"  # what the student is trained to answer; a file of prompts/, as in generate
