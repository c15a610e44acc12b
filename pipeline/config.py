"""The recipe as frozen pydantic models, one table a stage; recipe.py reads them from TOML.

What each setting means stands beside it. `identity()` gives the part of a table that changes a stage's
output; names in a table's EXECUTION say how the work is done (ports, concurrency) and never enter it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

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
    tests: str | None = None  # the column with a program's tests, for answer_type = "python"
    split: Literal["by_id", "train", "held_out"] = "by_id"
    limit: Annotated[int, Field(ge=1)] | None = None  # the first n rows

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
            "stream",
            "stall_timeout",
            "patience",
            "max_retries",
            "requests_per_minute",
            "tokens_per_minute",
            "price_in",
            "price_out",
            "continue_by",
        }
    )
    model: str  # hub name, local folder, GGUF file, or package:DIST/FILE.gguf from an installed package
    serve: Literal["vllm"] | None = None  # start a local vLLM server for it
    base_url: str | tuple[str, ...] | None = None  # or use this one, or several that share the load
    api_key_env: EnvName | None = None  # name of the environment variable with the key for base_url
    port: Annotated[int, Field(ge=0, le=65535)] = 0  # of the server started here; 0: any free one
    vllm: dict[str, Scalar | dict[str, Any] | list[Any]] = {}  # engine arguments: { max_model_len = 4096 }
    env: dict[EnvName, str] = {}  # environment of the server started here
    start_timeout: Annotated[float, Field(gt=0)] = 900  # seconds to wait until it answers
    stream: bool = True  # have tokens sent as they come, so that a slow answer is told from a dead one
    stall_timeout: Annotated[float, Field(gt=0)] = 300  # seconds without a byte until an answer is given up
    patience: Annotated[float, Field(gt=0)] = 600  # seconds without any good answer until the run stops
    max_retries: Annotated[int, Field(ge=0)] = 5  # of a request that failed as a second try may not
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None  # prompt and completion together
    price_in: Annotated[float, Field(ge=0)] | None = None  # per million prompt tokens, in any currency
    price_out: Annotated[float, Field(ge=0)] | None = None  # per million completion tokens
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # as the server calls it
    extra_body: dict[str, Any] = {}  # sent along with each request, e.g. { top_k = 20 }
    # How the server is asked to go on with a message: vLLM and SGLang, or "prefix": true (DeepSeek, Mistral)
    continue_by: Literal["continue_final_message", "prefix"] = "continue_final_message"

    @model_validator(mode="after")
    def _one_way_to_reach_it(self) -> Endpoint:
        if (self.serve is None) == (self.base_url is None):
            raise ValueError('set either serve = "vllm" or base_url')
        return self

    @property
    def base_urls(self) -> tuple[str, ...]:
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url or ()


class Teacher(Endpoint):
    """Several teachers are an array of tables, [[teacher]]."""

    name: Name | None = None  # what its traces call it; default: the model
    share: Annotated[float, Field(gt=0)] | None = None  # of the problems, in proportion; None: all of them

    @property
    def called(self) -> str:
        return self.name or self.model


def _one_or_more(tables: Any) -> Any:
    """[teacher] is one, [[teacher]] an array of them."""
    return [tables] if isinstance(tables, dict) else tables


class Student(Endpoint):
    """The model to fine-tune; served the same way for its evaluation, before and after."""

    serve: Literal["vllm"] = "vllm"


class Judge(Endpoint):
    """The model that compares answers with the reference where answer_type is "free"."""

    EXECUTION: ClassVar[frozenset[str]] = Endpoint.EXECUTION | {"concurrency", "accept_failed"}
    prompt: str = "judge"  # a file of prompts/ without .txt, or a path to one
    temperature: Annotated[float, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1
    max_tokens: Annotated[int, Field(ge=1)] = 4096  # an answer cut there tells nothing
    concurrency: Annotated[int, Field(ge=1)] = 64  # requests in flight, at most
    accept_failed: Share = 0  # share of the opinions that may be failures for the stage to go on


class Generate(Table):
    EXECUTION: ClassVar[frozenset[str]] = frozenset({"concurrency", "accept_failed"})
    prompt: str  # a file of prompts/ without .txt, or a path to one
    samples: Annotated[int, Field(ge=1)] | None = None  # traces a problem, of each teacher; default: 4
    until_correct: Annotated[int, Field(ge=1)] | None = (
        None  # or: draw until so many are kept by the filters,
    )
    max_samples: Annotated[int, Field(ge=1)] | None = None  # and this many at most
    temperature: Annotated[float, Field(ge=0)] = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_tokens: Annotated[int, Field(ge=1)] = 4096  # of one request
    continue_cut: Annotated[int, Field(ge=0)] = 0  # how often a thought cut at max_tokens is continued
    logprobs: Annotated[int, Field(ge=0)] | None = None  # keep those of the k likeliest tokens; 0: mean only
    concurrency: Annotated[int, Field(ge=1)] = 64  # requests in flight at each teacher, at most
    accept_failed: Share = 0  # share of the traces that may be failures for the stage to count as done

    @model_validator(mode="after")
    def _one_way_to_say_how_many(self) -> Generate:
        if (self.until_correct is None) != (self.max_samples is None):
            raise ValueError("until_correct and max_samples are set together")
        if self.until_correct is not None and self.samples is not None:
            raise ValueError("set either samples, or until_correct and max_samples")
        if self.until_correct is not None and self.until_correct > self.most:
            raise ValueError("until_correct is more than max_samples")
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


class Contamination(Table):
    """Traces that share a run of words with a problem of an evaluation set, anywhere in them."""

    against: Annotated[tuple[Source, ...], Field(min_length=1)]  # read as the sources of [ingest] are
    ngrams: tuple[Annotated[int, Field(ge=4, le=50)], ...] = (8, 13)  # words in a run
    common: Annotated[int, Field(ge=1)] = 10  # a run in more evaluation problems than this says nothing


class Duplicates(Table):
    """Problems, and traces of one problem or several, that say the same; the first that is kept stays."""

    problems: Annotated[float, Field(ge=0.3, le=1)] | None = 0.8  # Jaccard similarity of their shingles
    traces: Annotated[float, Field(ge=0.3, le=1)] | None = 0.8
    ngram: Annotated[int, Field(ge=1, le=50)] = 5  # words of a shingle


class Filter(Table):
    EXECUTION: ClassVar[frozenset[str]] = frozenset({"most_rejected"})
    # filter name -> its parameters; every filter runs on every trace, kept = all pass
    rules: Annotated[dict[str, dict[str, Any]], Field(min_length=1)] = {
        "finished": {},
        "one_thought": {},
        "final_answer": {},
        "correct": {},
    }
    majority: Majority | None = None
    difficulty: Difficulty | None = None
    contamination: Contamination | None = None
    duplicates: Duplicates | None = None
    most_rejected: Share = 0.98  # share of the traces that one rule may reject before the run stops to ask


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
    teacher: Annotated[tuple[Teacher, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
    generate: Generate
    filter: Filter = Filter()
    judge: Judge | None = None  # needed for sources with answer_type = "free"
    select: Select = Select()
    student: Student
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _names_tell_teachers_apart(self) -> Recipe:
        names = [teacher.called for teacher in self.teacher]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two teachers are called {name!r}: give each a name of its own")
        return self

    @property
    def judged(self) -> str | None:
        """A source whose answers only a model can judge; None where there is none or the rules do not ask."""
        sources = (s for s in self.ingest.sources if not isinstance(s, GymSource))
        free = (s.name or s.path for s in sources if s.answer_type == "free")
        return next(free, None) if "correct" in self.filter.rules else None

    @model_validator(mode="after")
    def _free_answers_have_a_judge(self) -> Recipe:
        why = f'the source {self.judged!r} has answer_type = "free" and filter.rules names "correct"'
        if self.judged and self.judge is None:
            raise ValueError(f"{why}: that takes a judge model, as a table [judge] with model and base_url")
        if self.judged and self.generate.until_correct is not None:
            raise ValueError(
                f"{why}: its judge is asked after generate, so until_correct cannot be; set generate.samples"
            )
        return self


def identity(table: Table) -> dict[str, Any]:
    """The settings of a table that change what a stage writes, as plain JSON values."""
    return {k: v for k, v in table.model_dump(mode="json").items() if k not in table.EXECUTION}
