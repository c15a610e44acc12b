"""[ingest]: where problems come from, or traces that exist already."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeGuard

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from pipeline.config.base import Fraction, RecipeTable
from pipeline.config.benchmarks import expanded
from pipeline.config.sources import DatasetSource, FileSource, GymSource

ReasoningFormat = Literal[
    "auto", "none", "think", "thinking", "thought", "reasoning", "magistral", "open_thoughts", "harmony"
]


class ReasoningMarks(RecipeTable):
    """The marks around reasoning in texts of another format."""

    begin: Annotated[str, Field(min_length=1)]
    """Mark at the start of the reasoning, such as "<scratchpad>"."""
    end: Annotated[str, Field(min_length=1)]
    """Mark at its end."""
    answer_begin: str = ""
    """Optional mark before the response that follows."""
    answer_end: str = ""
    """Optional mark after it."""


class TracesSource(DatasetSource):
    """Traces that exist already, of any model. They take the place of generate: nothing is sampled for their
    problems. All rows of a question are samples of one problem. docs/own-traces.md has examples."""

    kind: Literal["traces"]  # type: ignore[assignment]
    """What the rows are: traces that exist already."""
    path: str
    """Path of the files, or a glob pattern; with `reader = "datasets"` the name or folder of a data set."""
    reader: Literal["files", "datasets"] = "files"
    """What reads `path`: "files" for JSONL, JSON, CSV and Parquet, or the `datasets` library."""
    question: str = "question"
    """Column with the question, or with a conversation, whose last user turn is then the question. Default:
    "question", or with `messages` that column."""
    messages: str | None = None
    """Column with a conversation, as role and content or as ShareGPT's from and value. The last user turn is
    the question, the assistant turn after it the response. Other turns are left out."""
    response: str = "response"
    """Column with the response, or a list of responses, each a sample. It may hold the reasoning, too."""
    reasoning: str | None = None
    """Column with the reasoning. Default: it is part of the response, as `reasoning_format` says."""
    reasoning_format: ReasoningFormat = "auto"
    """How reasoning is marked in the response. "auto" recognises the marks of all known models, "none" leaves
    the text as it is; the others are the marks of one family."""
    reasoning_marks: ReasoningMarks | None = None
    """Marks of another format, in place of `reasoning_format`: { begin = "<plan>", end = "</plan>" }."""
    teacher: Annotated[str, Field(min_length=1)] | None = None
    """Name of the model that made the traces. Set this or `teacher_column`."""
    teacher_column: str | None = None
    """Column with the name of the model."""
    generation: NonNegativeInt | None = None
    """Generation of the models that made the traces, where no column says it: 0 for people and original
    models, 1 for their students. Default: unknown."""
    generation_column: str | None = None
    """Column with the generation of a trace's model. Default: "teacher_generation", where traces have it, as
    those that retort published do."""
    finish_reason: str | None = None
    """Column that tells how a response ended: a server's finish reason, or true if it is complete and false
    if it was truncated. Default, and for empty values: "stop", or "length" if the reasoning never ends."""
    tokens: str | None = None
    """Column with the number of tokens of reasoning and response. Default: unknown."""
    trace_id: str | None = None
    """Column that tells equal traces of a question apart. Rows with the same teacher, reasoning and response
    are one trace, unless this column differs. Default: none."""

    @model_validator(mode="before")
    @classmethod
    def _the_conversation_has_both(cls, given: Any) -> Any:
        messages = given.get("messages") if isinstance(given, dict) else None
        return {"question": messages, "response": messages, **given} if messages else given

    @model_validator(mode="after")
    def _settings_agree(self) -> TracesSource:
        if (self.teacher is None) == (self.teacher_column is None):
            raise ValueError("set either teacher, the name of a model, or teacher_column")
        if self.reasoning_marks is not None and self.reasoning_format != "auto":
            raise ValueError("set either reasoning_format or reasoning_marks")
        if self.messages is not None and self.response != self.messages:
            raise ValueError("set either messages or response")
        of_datasets = (self.subset, self.revision, self.dataset_split) != (None, None, "train")
        if self.reader == "files" and of_datasets:
            raise ValueError('subset, dataset_split and revision need reader = "datasets"')
        return self

    @property
    def used_columns(self) -> tuple[str, ...]:
        """The columns that are read as parts of a problem or of its traces."""
        texts = (self.messages, self.response, self.reasoning)
        about = (self.teacher_column, self.generation_column, self.finish_reason, self.tokens, self.trace_id)
        return tuple(filter(None, (*super().used_columns, *texts, *about)))


# Of [ingest] alone: evaluation sets and contamination need problems, no traces
IngestSource = Annotated[
    FileSource | DatasetSource | GymSource | TracesSource,
    Field(discriminator="kind"),
    BeforeValidator(expanded),
]


def read_by_datasets(source: FileSource) -> TypeGuard[DatasetSource]:
    """Whether the `datasets` library reads the source."""
    if isinstance(source, TracesSource):
        return source.reader == "datasets"
    return isinstance(source, DatasetSource)


class Ingest(RecipeTable):
    sources: Annotated[tuple[IngestSource, ...], Field(min_length=1)]
    """The sources of problems, each a table [[ingest.sources]]."""
    held_out: Fraction = 0.1
    """Fraction of each source with `split = "by_id"` that is held out for evaluation. The hash of the
    question decides, so a problem stays on its side when sources grow."""
    shard_size: PositiveInt = 256
    """Problems per shard; later stages keep the same shards. Lower it for very long traces."""
