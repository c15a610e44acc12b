"""The recipe: TOML and key=value overrides in, frozen pydantic models out, checked before any work starts.

What each setting means stands beside it. `identity()` gives the part of a table that changes a stage's
output; names in a table's EXECUTION say how the work is done (ports, concurrency) and never enter it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import UserError, nearest
from pipeline.rows import AnswerType

Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]  # safe as a file name
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Scalar = str | bool | int | float
Schedule = Literal[
    "cosine",
    "linear",
    "constant",
    "constant_with_warmup",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
]


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    EXECUTION: ClassVar[frozenset[str]] = frozenset()


class FileSource(Table):
    """Rows of a JSONL, JSON, CSV or Parquet file; `path` may be a glob pattern."""

    kind: Literal["file"]
    name: Name | None = None  # what the source is called in every row; default: the file's stem
    path: str  # from the folder the command runs in
    question: str = "question"  # the column that holds it; a dot reaches inside: "problem.text"
    reference: str | None = "answer"  # the column with the right answer; "": answers are not known
    answer_type: AnswerType = "math"
    split: Literal["by_id", "train", "held_out"] = "by_id"
    limit: Annotated[int, Field(ge=1)] | None = None  # the first n rows


class DatasetSource(FileSource):
    """A data set for the `datasets` library: a hub name, or a local folder."""

    kind: Literal["dataset"]  # type: ignore[assignment]
    subset: str | None = None
    dataset_split: str = "train"
    revision: str | None = None  # a commit or tag of the hub; pin it to have the same rows next month


class GymSource(Table):
    """Problems made by a reasoning-gym task, answers judged by the task's own scorer."""

    kind: Literal["reasoning_gym"]
    name: Name | None = None  # default: the task
    task: str
    size: Annotated[int, Field(ge=1)]
    seed: int = 0
    settings: dict[str, Any] = {}  # the task's own, e.g. { min_digits = 1 }
    split: Literal["by_id", "train", "held_out"] = "by_id"


Source = Annotated[FileSource | DatasetSource | GymSource, Field(discriminator="kind")]


class Ingest(Table):
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    held_out: Share = 0.1  # of each source that is split by id; decided by the id alone, so it never moves
    shard_size: Annotated[int, Field(ge=1)] = 256  # problems a shard; later stages keep the shards


class Endpoint(Table):
    """A model behind an OpenAI-compatible server: one started here, or one that is already there."""

    EXECUTION: ClassVar[frozenset[str]] = frozenset(
        {
            "serve",
            "base_url",
            "api_key_env",
            "port",
            "vllm",
            "env",
            "start_timeout",
            "request_timeout",
            "max_retries",
        }
    )
    model: str  # hub name, local folder, GGUF file, or package:DIST/FILE.gguf from an installed package
    serve: Literal["vllm"] | None = None  # start a local vLLM server for it
    base_url: str | None = None  # or use this one, e.g. "https://api.example.com/v1"
    api_key_env: EnvName | None = None  # name of the environment variable with the key for base_url
    port: Annotated[int, Field(ge=0, le=65535)] = 0  # of the server started here; 0: any free one
    vllm: dict[str, Scalar] = {}  # vLLM's engine arguments, e.g. { max_model_len = 4096 }
    env: dict[EnvName, str] = {}  # environment of the server started here
    start_timeout: Annotated[float, Field(gt=0)] = 900  # seconds to wait until it answers
    request_timeout: Annotated[float, Field(gt=0)] = 600  # seconds for one completion
    max_retries: Annotated[int, Field(ge=0)] = 5  # of a request refused with 429, 5xx or a lost connection

    @model_validator(mode="after")
    def _one_way_to_reach_it(self) -> Endpoint:
        if (self.serve is None) == (self.base_url is None):
            raise ValueError('set either serve = "vllm" or base_url')
        return self


class Teacher(Endpoint):
    pass


class Student(Endpoint):
    """The model to fine-tune; served the same way for its evaluation, before and after."""

    serve: Literal["vllm"] = "vllm"


class Generate(Table):
    EXECUTION: ClassVar[frozenset[str]] = frozenset({"concurrency", "accept_failed"})
    prompt: str  # a file of prompts/ without .txt, or a path to one
    samples: Annotated[int, Field(ge=1)] = 4  # traces a problem
    temperature: Annotated[float, Field(ge=0)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Annotated[int, Field(ge=1)] = 4096
    concurrency: Annotated[int, Field(ge=1)] = 64  # requests in flight
    accept_failed: Share = 0  # share of the traces that may be failures for the stage to count as done


class Filter(Table):
    # filter name -> its parameters; every filter runs on every trace, kept = all pass
    rules: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = {
        "finished": {},
        "one_thought": {},
        "final_answer": {},
        "correct": {},
    }


class Select(Table):
    per_problem: Annotated[int, Field(ge=1)] = 4  # kept traces of a problem, at most
    validation: Share = 0.05  # share of the problems whose examples measure the training
    prompt: str = "plain"  # what the student is trained to answer; a file of prompts/, as in generate


class Train(Table):
    EXECUTION: ClassVar[frozenset[str]] = frozenset(
        {"save_steps", "accelerate", "max_length", "micro_batch_size", "gradient_checkpointing"}
    )
    epochs: Annotated[float, Field(gt=0)] = 3
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    schedule: Schedule = "cosine"  # of the learning rate, as transformers names them
    warmup: Share = 0.05  # share of the steps
    batch_size: Annotated[int, Field(ge=1)] = 16  # examples a step, over all devices
    micro_batch_size: Annotated[int, Field(ge=1)] = 16  # examples at once on one device
    max_length: Annotated[int, Field(ge=16)] = 4096  # tokens; a longer example stops the run, none is cut
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 where the processor computes in it
    gradient_checkpointing: bool = False
    save_steps: Annotated[int, Field(ge=1)] = 50
    accelerate: dict[str, Scalar] = {}  # arguments of `accelerate launch`, e.g. { num_processes = 8 }


class Evaluate(Table):
    EXECUTION: ClassVar[frozenset[str]] = frozenset({"concurrency", "accept_failed"})
    prompt: str | None = None  # for the base student and the trained one; default: select.prompt
    teacher_prompt: str | None = None  # default: generate.prompt
    samples: Annotated[int, Field(ge=1)] = 4
    temperature: Annotated[float, Field(ge=0)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Annotated[int, Field(ge=1)] = 4096
    concurrency: Annotated[int, Field(ge=1)] = 64
    accept_failed: Share = 0


class Recipe(Table):
    run: Name  # the run's folder is data/runs/<run>, or what --runs says
    seed: int = 0
    ingest: Ingest
    teacher: Teacher
    generate: Generate
    filter: Filter = Filter()
    select: Select = Select()
    student: Student
    train: Train = Train()
    evaluate: Evaluate = Evaluate()


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe. Raises UserError, one line, naming the key and the nearest known one."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UserError(f"{path}: not a TOML recipe: {e}") from None
    for override in overrides:
        _apply(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as e:
        raise UserError(f"{path}: {_explain(e)}") from None


def identity(table: Table) -> dict[str, Any]:
    """The settings of a table that change what a stage writes, as plain JSON values."""
    return {k: v for k, v in table.model_dump(mode="json").items() if k not in table.EXECUTION}


def _apply(data: dict[str, Any], override: str) -> None:
    key, eq, text = override.partition("=")
    if not eq or not key.strip():
        raise UserError(f"{override!r}: an override is key=value, e.g. generate.samples=2")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    *path, last = key.strip().split(".")
    at: Any = data
    for step in path:
        at = _descend(at, step, key)
    if isinstance(at, list):
        at[_index(at, last, key)] = value
    else:
        at[last] = value


def _descend(at: Any, step: str, key: str) -> Any:
    below = at[_index(at, step, key)] if isinstance(at, list) else at.setdefault(step, {})
    if not isinstance(below, dict | list):
        raise UserError(f"override {key}: {step!r} is a value, not a table")
    return below


def _index(at: list[Any], step: str, key: str) -> int:
    if not step.isdigit() or int(step) >= len(at):
        raise UserError(f"override {key}: {step!r} is not one of the positions 0 to {len(at) - 1}")
    return int(step)


def _explain(error: ValidationError) -> str:
    """The first mistake in one line; a count of the others."""
    first, others = error.errors()[0], error.error_count() - 1
    where = ".".join(str(p) for p in first["loc"] if p not in ("file", "dataset", "reasoning_gym"))
    if first["type"] == "extra_forbidden":
        what = f"unknown key {where!r}" + nearest(str(first["loc"][-1]), _known_keys(first["loc"][:-1]))
    elif first["type"] == "missing":
        what = f"missing key {where!r}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        secret = (
            where.endswith("api_key_env") or ".env." in where
        )  # somebody may have put the key itself there
        value = "" if secret or isinstance(first["input"], dict | list) else f" (found {first['input']!r})"
        what = f"{where}: {message}{value}" if where else f"{message}{value}"
    return what + (f" (and {others} more)" if others else "")


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    kinds = {"file": FileSource, "dataset": DatasetSource, "reasoning_gym": GymSource}
    table: Any = Recipe
    for step in loc:
        if step in kinds:
            table = kinds[str(step)]
        elif table is Recipe:
            table = Recipe.model_fields[str(step)].annotation
    return list(table.model_fields)
