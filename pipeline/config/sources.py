"""[ingest]: where problems come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Name, Share, Table
from pipeline.rows import AnswerType


class FileSource(Table):
    """Rows of a JSONL, JSON, CSV or Parquet file; `path` may be a glob pattern."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"licence"})
    kind: Literal["file"]
    name: Name | None = None  # what the source is called in every row; default: the file's stem
    path: str  # from the folder the command runs in
    question: str = "question"  # the column that holds it; a dot reaches inside: "problem.text"
    reference: str | None = "answer"  # the column with the right answer; "": answers are not known
    answer_type: AnswerType = "math"
    tests: str | None = None  # the column with a program's tests, for answer_type = "python"
    split: Literal["by_id", "train", "held_out"] = "by_id"
    limit: Annotated[int, Field(ge=1)] | None = None  # the first n rows
    licence: str | None = None  # of the problems, as "mit"; for the card that publish writes

    @model_validator(mode="before")
    @classmethod
    def _a_program_needs_no_reference(cls, given: Any) -> Any:
        """It is judged by its tests, so the column of answers is read only where it is named."""
        python = isinstance(given, dict) and given.get("answer_type") == "python"
        return {"reference": None, **given} if python else given

    @model_validator(mode="after")
    def _a_program_has_tests(self) -> FileSource:
        if (self.answer_type == "python") != (self.tests is not None):
            raise ValueError('answer_type = "python" and tests, the column that holds them, are set together')
        return self


class DatasetSource(FileSource):
    """A data set for the `datasets` library: a hub name, or a local folder."""

    kind: Literal["dataset"]  # type: ignore[assignment]
    subset: str | None = None
    dataset_split: str = "train"
    revision: str | None = None  # a commit or tag of the hub; pin it to have the same rows next month


class GymSource(Table):
    """Problems made by a reasoning-gym task, answers judged by the task's own scorer."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset({"licence"})
    kind: Literal["reasoning_gym"]
    name: Name | None = None  # default: the task
    task: str
    size: Annotated[int, Field(ge=1)]
    seed: int = 0
    settings: dict[str, Any] = {}  # the task's own, e.g. { min_digits = 1 }
    split: Literal["by_id", "train", "held_out"] = "by_id"
    licence: str | None = "apache-2.0"  # reasoning-gym's own


Source = Annotated[FileSource | DatasetSource | GymSource, Field(discriminator="kind")]


def free(sources: Sequence[Source]) -> str | None:
    """The first of these sources whose answers only a model can judge, as the recipe calls it."""
    kinds = (s for s in sources if not isinstance(s, GymSource))
    return next((s.name or s.path for s in kinds if s.answer_type == "free"), None)


class Ingest(Table):
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    held_out: Share = 0.1  # of each source that is split by id; decided by the id alone, so it never moves
    shard_size: Annotated[int, Field(ge=1)] = 256  # problems a shard; later stages keep the shards
