"""[select]: which kept traces become training examples, and what is mixed in."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from pipeline.config.base import Fraction, NotIdentity, RecipeTable
from pipeline.config.filters import Similarity
from pipeline.config.mix import ChatMix, Mix, PlainMix, ThinkingSwitch


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

    @model_validator(mode="after")
    def _some_rate_fits(self) -> PassRates:
        if self.min > self.max:
            raise ValueError("min is more than max: no problem lies between them")
        return self


class Marks(RecipeTable):
    """Marks that people gave traces in `retort view`."""

    path: str
    """Path of the marks: keep.jsonl in the folder of the run."""
    use: Literal["drop", "prefer", "only"] = "prefer"
    """What marks do. "drop" leaves out the kept traces that are marked "drop". "prefer" does so too, and
    takes those marked "keep" before the others of their problem. "only" takes those marked "keep" alone."""


class Select(RecipeTable):
    per_problem: PositiveInt = 4
    """Maximum training examples per problem."""
    max_examples: PositiveInt | None = None
    """Maximum examples of kept traces to train on, chosen at random by their ids over all problems; chat data
    that is mixed in comes on top. Default: all."""
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
    marks: NotIdentity[Marks | None] = None  # select/stage.py adds the content of the file to the identity
    """Use the marks that people gave kept traces in `retort view`. Default: no marks are read."""
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
