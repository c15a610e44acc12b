"""[generate], [filter], [select]: which traces are sampled, kept, and made into training examples."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipeline.config.base import Fraction, NotIdentity, RecipeTable, SamplingSettings
from pipeline.config.mix import ChatMix, Mix, PlainMix, ThinkingSwitch
from pipeline.config.sources import Source

Similarity = Annotated[float, Field(ge=0.3, le=1)]


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
    logprobs: NonNegativeInt | None = None
    """Log-probabilities to store: those of the k likeliest tokens at each position, or with 0 only the means.
    Needed by `topk_kd` (k of 1 or more), and by the settings that use confidence. Default: none."""

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
    def names(self) -> tuple[str, ...]:
        """The rules, and the tables of filters across traces that are on."""
        tables = ("contamination", "majority", "difficulty", "duplicates")
        return (*self.rules, *(name for name in tables if getattr(self, name) is not None))

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


class LengthBand(RecipeTable):
    """Examples of up to `max_tokens` tokens that no band before this one takes."""

    max_tokens: PositiveInt | None = None
    """Maximum tokens of reasoning and response together, as the teacher's server counted them. Default: any
    number, for the last band."""
    share: Annotated[float, Field(gt=0, le=1)]
    """Maximum share of this band among all examples."""


class PassRates(RecipeTable):
    """Problems by the fraction of the untrained student's samples that are correct."""

    min: Fraction = 0
    """Minimum fraction. Raise it to leave out problems that are beyond the student."""
    max: Fraction = 1
    """Maximum fraction. Lower it to leave out problems that the student solves already."""


class Select(RecipeTable):
    per_problem: PositiveInt = 4
    """Maximum training examples per problem."""
    max_examples: PositiveInt | None = None
    """Maximum examples to train on, chosen at random by their ids over all problems. Default: all."""
    prefer: Literal["first", "confident", "short", "natural", "ratio"] = "first"
    """Which kept traces of a problem to take: the first sampled, those with the highest mean log-probability
    (needs `generate.logprobs`), the shortest, those with the highest local naturalness, or those with the
    lowest rank-surprisal ratio. The last two need a table [score]."""
    diverse: Similarity | None = None
    """Leave out a trace whose reasoning is this similar, or more, to that of a preferred trace of the same
    problem: Jaccard similarity of 5-word shingles. Default: only equal texts are left out."""
    lengths: tuple[LengthBand, ...] = ()
    """A mix of lengths: bands of tokens, shortest first, each with its maximum share of the examples. Which
    examples of a band stay is drawn with `seed`. Default: any lengths."""
    student_pass_rate: PassRates | None = None
    """Leave out the problems that the untrained student solves too often or too seldom. It needs
    `score.student_samples`. A problem without a graded sample stays. Default: off."""
    reasoning: Literal["tags", "none"] = "tags"
    """With "tags" the student learns to reason inside <think> tags before it answers. With "none" it learns
    the response alone, for teachers that reason in plain text; then no rule requires separate reasoning."""
    validation: Fraction = 0.05
    """Fraction of the problems whose examples are held out to measure the validation loss."""
    prompt: str = "plain"
    """Prompt that the student is trained to respond to: a file in prompts/, or a path that ends in .txt."""

    @model_validator(mode="after")
    def _length_bands_ascend_and_can_be_filled(self) -> Select:
        limits = [band.max_tokens or math.inf for band in self.lengths]
        if limits != sorted(set(limits)):
            raise ValueError("lengths: max_tokens must ascend, and only the last band may leave it out")
        open_ended = not limits or limits[-1] < math.inf  # longer examples are in no band
        if not open_ended and sum(band.share for band in self.lengths) < 1:
            raise ValueError("lengths: the shares of all bands add up to less than 1, so no example fits")
        return self

    mix: tuple[Mix, ...] = ()
    """Further examples, each kind a table [[select.mix]]. Default: none, only kept traces with reasoning."""
    thinking_switch: ThinkingSwitch | None = None
    """How the student is asked to think or not: a variable of its chat template (enable_thinking, thinking),
    or the words /no_think after the user's or the system's message. Default: the template's own variable, or
    "user" if it has none."""
    rejected: bool = False
    """Store an incorrect trace of the same problem next to each example, for `train.objective = "dpo"` or
    "redi". Such a trace passes every other rule."""

    @model_validator(mode="after")
    def _mix_is_possible(self) -> Select:
        if sum(mix.share or 0 for mix in self.mix) >= 1:
            raise ValueError("the shares of mix add up to 1 or more: nothing is left for reasoning")
        if sum(isinstance(mix, PlainMix) for mix in self.mix) > 1:
            raise ValueError('mix has several tables with kind = "plain": one is enough')
        if self.plain_share and self.reasoning == "none":
            raise ValueError('mix with kind = "plain" needs reasoning = "tags": otherwise nothing reasons')
        names = [mix.name for mix in self.chats]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two tables of mix are called {name!r}: give each its own name")
        return self

    @property
    def chats(self) -> tuple[ChatMix, ...]:
        return tuple(mix for mix in self.mix if isinstance(mix, ChatMix))

    @property
    def plain_share(self) -> float:
        """The fraction of all examples that are plain."""
        return next((mix.share for mix in self.mix if isinstance(mix, PlainMix)), 0.0)
