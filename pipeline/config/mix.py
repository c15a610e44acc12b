"""[[select.mix]]: further training examples next to the kept traces."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from pipeline.config.base import Name, NotIdentity, RecipeTable

Share = Annotated[float, Field(gt=0, lt=1)]
ThinkingSwitch = Literal["enable_thinking", "thinking", "user", "system"]


class PlainMix(RecipeTable):
    """Examples without reasoning, from other problems than those that are taught with reasoning."""

    kind: Literal["plain"]
    """What is mixed in: responses of kept traces without their reasoning, asked for with thinking off."""
    share: Share
    """Fraction of all examples. The hash of the problem decides, so the fraction is met on average."""


class ChatMix(RecipeTable):
    """Other chat data, against forgetting: each example is a dialogue that ends with an answer."""

    kind: Literal["chat"]
    """What is mixed in: dialogues of a file or data set."""
    path: str
    """Path of a JSONL, JSON, CSV or Parquet file, or the name of a data set with `source = "dataset"`."""
    source: Literal["file", "dataset"] = "file"
    """Where the dialogues come from: local files, or a data set of the hub or a local folder."""
    name: Name
    """Name of this data in the examples and in the counts."""
    messages: str | None = None
    """Column with the dialogue: a list of {role, content} or {from, value}. Default: messages, unless
    `question` and `response` are set."""
    question: str | None = None
    """Column with the question, in place of `messages`."""
    response: str | None = None
    """Column with the answer, together with `question`."""
    subset: str | None = None
    """Subset (configuration) of the data set. Default: the data set's own default."""
    dataset_split: str = "train"
    """Split of the data set to read."""
    revision: str | None = None
    """Commit or tag on the hub. Pin it to read the same rows later. Default: the newest."""
    limit: PositiveInt | None = None
    """Read only this many rows, from the first, before sampling. Default: all."""
    share: Share | None = None
    """Fraction of all examples. Set either this or `count`."""
    count: PositiveInt | None = None
    """Number of examples."""
    licence: NotIdentity[str | None] = None
    """Licence of the data, for your records. `retort publish` leaves these rows out."""

    @model_validator(mode="after")
    def _columns_are_clear(self) -> ChatMix:
        if (self.question is None) != (self.response is None):
            raise ValueError("question and response are set together")
        if self.messages is not None and self.question is not None:
            raise ValueError("set either messages, or question and response")
        if (self.share is None) == (self.count is None):
            raise ValueError("set either share or count")
        if self.source == "file" and (self.subset, self.dataset_split, self.revision) != (
            None,
            "train",
            None,
        ):
            raise ValueError('subset, dataset_split and revision need source = "dataset"')
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read: that of the dialogue, or those of question and answer."""
        if self.question is not None and self.response is not None:
            return self.question, self.response
        return (self.messages or "messages",)


Mix = Annotated[ChatMix | PlainMix, Field(discriminator="kind")]
