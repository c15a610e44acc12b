"""[ingest]: where problems come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

import prompts
from pipeline.config.base import Name, NotIdentity, RecipeTable
from pipeline.config.benchmarks import expanded
from pipeline.errors import UserError
from pipeline.rows import AnswerType

SplitRule = Literal["by_id", "train", "held_out"]


class FileSource(RecipeTable):
    """Rows of local JSONL, JSON, CSV or Parquet files."""

    kind: Literal["file"]
    """Where the rows come from: files on this machine."""
    name: Name | None = None
    """Name of the source in every row. Default: the last part of `path`, without its extension."""
    path: str
    """Path of the file, relative to the current folder. A glob pattern reads several."""
    question: str = "question"
    """Column with the question. A dot reaches into a nested value: "problem.text"."""
    reference: str | None = "answer"
    """Column with the reference answer. Set it to "" if no answers are known."""
    answer_type: AnswerType = "math"
    """How an answer is compared with its reference: as a formula, a number, the letter of a choice, plain
    text, yes or no, JSON, the instructions that it lists (IFEval), by the tests of a Python program, or
    ("free") by the LLM judge."""
    tests: str | None = None
    """Column with the tests of a program. Required for, and only for, `answer_type = "python"`."""
    entry_point: str | None = None
    """Column with the name of the function that `tests` check, as in HumanEval: the tests are then code that
    defines `check(candidate)`, and the question begins the program."""
    arguments: str | None = None
    """Column with the arguments of the instructions whose ids `reference` lists. Only for `answer_type =
    "instructions"`, where these two are "instruction_id_list" and "kwargs" by default, as in IFEval."""
    question_template: str | None = None
    """Template of the question, with `{{ question }}`, `{{ choices }}` and other columns by name. Default:
    the question, with the choices below it."""
    choices: str | tuple[str, ...] | None = None
    """Options of a multiple-choice question: the column with their list, or a column for each. They get
    letters from A on. Needs `answer_type = "choice"`."""
    shuffle_choices: bool = False
    """Order the options by a hash of the question and their texts, the same in every run."""
    reference_is: Literal["letter", "index", "text"] = "letter"
    """How the reference names one of the choices; an index counts from 0. It does not matter where the
    reference is itself a column of `choices`."""
    columns: Literal["all"] | tuple[str, ...] = "all"
    """Other columns to keep with each problem and its traces, for prompts, rules and queries. "all" keeps
    every value of up to 4 KB; a list keeps the columns that it names, [] none."""
    split: SplitRule = "by_id"
    """Which problems are held out for evaluation: a fraction (`ingest.held_out`), none, or all."""
    limit: PositiveInt | None = None
    """Read only this many rows, from the first. Default: all."""
    licence: NotIdentity[str | None] = None
    """Licence of the problems, such as "mit". It is printed on the card that `retort publish` writes."""

    @model_validator(mode="before")
    @classmethod
    def _a_program_needs_no_reference(cls, given: Any) -> Any:
        """Reads the reference of a program, which its tests grade, only from a column that is named."""
        python = isinstance(given, dict) and given.get("answer_type") == "python"
        return {"reference": None, **given} if python else given

    @model_validator(mode="before")
    @classmethod
    def _instructions_have_the_columns_of_ifeval(cls, given: Any) -> Any:
        named = isinstance(given, dict) and given.get("answer_type") == "instructions"
        return {"reference": "instruction_id_list", "arguments": "kwargs", **given} if named else given

    @model_validator(mode="after")
    def _instructions_have_arguments(self) -> FileSource:
        wanted = self.answer_type == "instructions"
        if bool(self.arguments) != wanted or (wanted and not self.reference):
            raise ValueError('set answer_type = "instructions" together with reference and arguments')
        return self

    @model_validator(mode="after")
    def _a_program_has_tests(self) -> FileSource:
        if (self.answer_type == "python") != (self.tests is not None):
            raise ValueError('set answer_type = "python" together with tests, the column of the tests')
        if self.entry_point is not None and self.tests is None:
            raise ValueError("entry_point needs tests, the column of the tests")
        return self

    @model_validator(mode="after")
    def _choices_are_graded_as_choices(self) -> FileSource:
        if self.choices is not None and self.answer_type != "choice":
            raise ValueError('choices need answer_type = "choice"')
        if self.choices is None and (self.shuffle_choices or self.reference_is != "letter"):
            raise ValueError("shuffle_choices and reference_is need choices, the columns of the options")
        return self

    @model_validator(mode="after")
    def _template_asks_the_question(self) -> FileSource:
        if self.question_template is None:
            return self
        try:
            names = prompts.text_fields(self.question_template)
        except UserError as e:
            raise ValueError(f"question_template: {e}") from None
        needed = ("question",) if self.choices is None else ("question", "choices")
        if missing := next((name for name in needed if name not in names), None):
            raise ValueError(f"question_template does not contain {{{{ {missing} }}}}")
        # Tests may be shown: MBPP names its function nowhere else.
        answers = {name.partition(".")[0] for name in (self.reference, self.arguments) if name}
        if shown := names & answers - {"question", "choices"}:
            raise ValueError(f"question_template: {min(shown)!r} holds the answer")
        return self

    @property
    def template_columns(self) -> tuple[str, ...]:
        """The columns that the question's template names."""
        names = prompts.text_fields(self.question_template) if self.question_template else set()
        return tuple(sorted(names - {"question", "choices"}))

    @model_validator(mode="after")
    def _no_column_tells_the_answer(self) -> FileSource:
        """Refuses to keep what is read as something else; a prompt may show every column that is kept."""
        for name in self.columns if self.columns != "all" else ():
            used = (u for u in self.used_columns if u == name or u.startswith(f"{name}."))
            if found := next(used, None):
                raise ValueError(f"columns: {name!r} holds {found!r}, which the source reads already")
        return self

    @property
    def used_columns(self) -> tuple[str, ...]:
        """The columns that make the question and what grades its answers."""
        options = (self.choices,) if isinstance(self.choices, str) else self.choices or ()
        graded_by = (self.reference, self.arguments, self.tests, self.entry_point)
        return tuple(dict.fromkeys(filter(None, (self.question, *graded_by, *options))))


class DatasetSource(FileSource):
    """Rows of a data set that the `datasets` library reads, streamed from the hub or from a local folder."""

    kind: Literal["dataset"]  # type: ignore[assignment]
    """Where the rows come from: a data set of the hub or a local folder."""
    path: str
    """Name of the data set on the hub, such as "openai/gsm8k", or a local folder."""
    subset: str | None = None
    """Subset (configuration) of the data set. Default: the data set's own default."""
    dataset_split: str = "train"
    """Split of the data set to read."""
    revision: str | None = None
    """Commit or tag on the hub. Pin it to read the same rows later. Default: the newest."""


class GymSource(RecipeTable):
    """Problems generated by a reasoning-gym task and graded by the task's own scorer."""

    kind: Literal["reasoning_gym"]
    """Where the problems come from: a reasoning-gym task."""
    name: Name | None = None
    """Name of the source in every row. Default: the task."""
    task: str
    """Name of the reasoning-gym task, such as "chain_sum"."""
    size: PositiveInt
    """Number of problems to generate."""
    seed: int = 0
    """Seed of the task's generator. It is independent of the recipe's seed."""
    settings: dict[str, Any] = {}
    """The task's own settings, such as { min_digits = 1 }. Default: the task's defaults."""
    split: SplitRule = "by_id"
    """Which problems are held out for evaluation: a fraction (`ingest.held_out`), none, or all."""
    licence: NotIdentity[str | None] = "apache-2.0"
    """Licence of the problems for the card that `retort publish` writes. Default: reasoning-gym's own."""


Source = Annotated[
    FileSource | DatasetSource | GymSource, Field(discriminator="kind"), BeforeValidator(expanded)
]


def free_text_source(sources: Sequence[FileSource | GymSource]) -> str | None:
    """Returns the name of the first source with free-text answers, which only the LLM judge can grade."""
    with_answers = (s for s in sources if not isinstance(s, GymSource))
    return next((s.name or s.path for s in with_answers if s.answer_type == "free"), None)
