"""[filter]: which traces are kept."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from pipeline.config.base import Fraction, NotIdentity, RecipeTable
from pipeline.config.sources import Source

Similarity = Annotated[float, Field(ge=0.3, le=1)]


class Majority(RecipeTable):
    """Grades problems without a reference by a vote: the answer of most samples counts as correct."""

    margin: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Minimum lead of the most frequent answer over the second, as a fraction of the votes."""
    votes: Annotated[int, Field(ge=2)] = 4
    """Minimum number of samples with an answer; below it a problem stays undecided."""


class Difficulty(RecipeTable):
    """Keeps only problems of medium difficulty, measured by the fraction of samples that are correct."""

    low: Fraction = 0.1
    """Minimum fraction of correct samples. Raise it to drop more of the hardest problems."""
    high: Fraction = 0.9
    """Maximum fraction of correct samples. Lower it to drop more of the easiest problems."""
    graded: PositiveInt = 2
    """Minimum number of samples graded correct or incorrect; below it a problem stays undecided."""

    @model_validator(mode="after")
    def _band_is_not_empty(self) -> Difficulty:
        if self.low > self.high:
            raise ValueError("low is more than high: no problem lies between them")
        return self


class Contamination(RecipeTable):
    """Rejects traces that share an n-gram of words with a problem of an evaluation set."""

    against: Annotated[tuple[Source, ...], Field(min_length=1)]
    """The evaluation sets, written as the sources of [ingest] are."""
    ngrams: Annotated[tuple[Annotated[int, Field(ge=4, le=50)], ...], Field(min_length=1)] = (8, 13)
    """Lengths of the n-grams, in words. Shorter ones find more copies and more coincidences."""
    common: PositiveInt = 10
    """Ignore an n-gram that more evaluation problems than this share: it is a common phrase."""


class Duplicates(RecipeTable):
    """Rejects near-duplicates of problems and of traces; the first kept trace of a cluster stays."""

    problems: Similarity | None = 0.8
    """Minimum Jaccard similarity of two questions' shingles to call them duplicates."""
    traces: Similarity | None = 0.8
    """Minimum Jaccard similarity of two traces' shingles to call them duplicates."""
    ngram: Annotated[int, Field(ge=1, le=50)] = 5
    """Words per shingle."""


class Filter(RecipeTable):
    rules: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = {
        "finished": {},
        "single_reasoning": {},
        "final_answer": {},
        "correct": {},
    }
    """The filters with their parameters; a trace is kept if it passes all. A recipe adds to the default ones
    with `no_leak = true` or a table [filter.rules.no_leak], and switches one off with `correct = false`."""
    majority: Majority | None = None
    """Grade problems without a reference by a vote over their samples. Default: off."""
    difficulty: Difficulty | None = None
    """Keep only problems of medium difficulty. Default: off."""
    contamination: Contamination | None = None
    """Reject traces that overlap with evaluation sets. Default: off."""
    duplicates: Duplicates | None = None
    """Reject near-duplicates. Default: off; an empty table [filter.duplicates] turns it on."""
    ignored: tuple[str, ...] = ()
    """Rules, or tables such as "majority", whose verdicts are stored but do not decide what is kept. With it
    `retort ablate` measures what a rule is worth."""
    max_rejected_fraction: NotIdentity[Fraction] = 0.98
    """Fraction of the traces that one rule may reject or leave undecided before the stage stops."""

    @property
    def deciding(self) -> dict[str, dict[str, Any]]:
        """The rules whose verdicts decide what is kept."""
        return {name: given for name, given in self.rules.items() if name not in self.ignored}

    @property
    def across(self) -> tuple[str, ...]:
        """The tables of filters across traces that are on."""
        tables = ("contamination", "majority", "difficulty", "duplicates")
        return tuple(name for name in tables if getattr(self, name) is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """The rules, and the tables of filters across traces that are on."""
        return (*self.rules, *self.across)

    @model_validator(mode="after")
    def _ignores_what_is_on(self) -> Filter:
        for name in self.ignored:
            if name not in self.names:
                raise ValueError(f"ignored: {name!r} is not on; on are {', '.join(self.names)}")
        return self

    @model_validator(mode="after")
    def _difficulty_has_verdicts(self) -> Filter:
        if self.difficulty and "correct" not in self.rules and self.majority is None:
            raise ValueError(
                "difficulty counts correct samples: it needs filter.rules.correct or filter.majority"
            )
        return self
