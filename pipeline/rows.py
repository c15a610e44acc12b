"""The rows that stages write: frozen pydantic types, and the Arrow schemas declared by them.

Every row explains itself: a trace carries its question, reference answer, teacher, sampling settings,
prompt hash, finish reason, token counts and verdicts. But for the training's curve no row holds a time or a
host name, so a deterministic teacher gives the same bytes on every run.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import pyarrow as pa

AnswerType = Literal["math", "number", "choice", "text", "yes_no", "json", "python", "free", "reasoning_gym"]
Split = Literal["train", "held_out"]
FilterOutcome = Literal["passed", "failed", "undecided"]
Outcome = Literal["unfiltered", "kept", "rejected", "undecided"]
Int32 = Annotated[int, "int32"]  # as Arrow stores it
Float32 = Annotated[float, "float32"]


class Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Question(Row):
    """What is asked, and what is needed to judge an answer to it."""

    question: str
    reference: str | None  # the right answer, where one is known
    answer_type: AnswerType  # how an answer is compared with the reference
    source: str  # the name of the source in the recipe
    # JSON: a reasoning-gym entry whole, or a program's tests as filters/sandbox/python_tests.py reads them
    metadata: str | None = None


class Problem(Question):
    id: str  # hash of the question's text
    split: Split
    origin: str  # where it was read, for people: "problems.jsonl:12"


class Verdict(Row):
    """What one filter says of one trace."""

    filter: str
    version: int
    outcome: FilterOutcome
    reason: str  # a short code; "" when it passed
    evidence: str | None = None  # the extracted answer, the matched text


class Sampling(Row):
    temperature: float | None  # None, as of the next: not sent, the server's own was used
    top_p: float | None
    max_tokens: int


class Logprobs(Row):
    """The teacher's log-probabilities (natural) of the n tokens it drew, and of its k likeliest at each.

    9.6 bytes a token and candidate at k = 5, before compression.
    """

    k: int
    thought: int  # the first of the n tokens, this many, are the thought with its tags
    tokens: tuple[Int32, ...]  # n ids; -1 where the server gave none
    logprobs: tuple[Float32, ...]  # n
    top_tokens: tuple[Int32, ...]  # n * k ids, position by position, likeliest first; -1 fills up
    top_logprobs: tuple[Float32, ...]  # n * k


class Trace(Question):
    """One sampled completion for a problem, with the verdicts on it once it was filtered."""

    id: str  # "<problem id>-<teacher's position in the recipe>-<sample>"
    problem_id: str
    sample: int
    teacher: str
    prompt: str
    prompt_hash: str
    sampling: Sampling
    seed: int | None  # None: not sent
    reasoning: str | None  # the thought, however the server sent it; None when there was none
    response: str  # what follows the thought
    finish_reason: str  # "stop", "length", ... or "failed" when no answer could be had
    prompt_tokens: int | None  # over all requests that it took
    completion_tokens: int | None
    continuations: int = 0  # how often it was cut at max_tokens and continued from there
    reasoning_logprob: float | None = None  # mean over the thought's tokens, where they were asked for
    response_logprob: float | None = None  # mean over the tokens that follow
    logprobs: Logprobs | None = None
    error: str | None = None  # why it failed, or could not be continued
    verdicts: tuple[Verdict, ...] = ()
    outcome: Outcome = "unfiltered"
    reason: str = ""  # "rule: reason" of the first verdict that decided the outcome; "" when kept


class JudgeVerdict(Row):
    """What a judge model says of a free-text response. Traces of a shard with the same texts share one."""

    id: str  # hash of the question, the reference and the response
    trace_id: str  # the first trace with them
    model: str
    prompt_hash: str
    outcome: FilterOutcome
    reason: str  # "wrong", "unclear" or "judge_failed"; "" when it passed
    reasoning: str | None  # the judge's thought, where the server sent one
    answer: str  # as it came
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    error: str | None = None  # why there is no answer


Role = Literal["system", "user", "assistant"]


class Message(Row):
    role: Role
    content: str


class Example(Row):
    """One training row. The last message is the assistant's: <think>thought</think>, then the answer;
    or the answer alone, as select.reasoning says.
    """

    id: str  # the trace's id
    problem_id: str
    source: str
    teacher: str
    split: Literal["train", "validation"]
    pass_rate: float | None  # share of the problem's judged samples that are right
    confidence: float | None  # mean log-probability of a token, where it is known
    tokens: int | None  # of thought and answer, as the teacher's server counted them
    messages: tuple[Message, ...]


class Step(Row):
    """One line of a training's curve."""

    id: str  # the step, or "<step>-validation"
    step: int
    steps: int  # of the whole training
    epoch: float
    loss: float | None
    learning_rate: float | None
    grad_norm: float | None
    tokens: int | None  # supervised and prompt tokens seen so far
    seconds: float | None  # since this process started training
    tokens_per_second: float | None  # over all devices, since the line before
    validation_loss: float | None


class Score(Row):
    """One problem, one model: how many of its samples were right, cut off, malformed."""

    id: str  # "<set>/<subject>/<problem id>"
    set: str  # "held_out", or the name of a set of the recipe
    model_role: str  # "base", "student" or "teacher"
    model: str
    prompt: str  # name of the prompt it was asked with
    problem_id: str
    source: str
    samples: int
    correct: int
    majority: float  # whether the answer given most often is right; shared where several are
    unknown: int  # verdicts that could not tell; never counted as correct
    truncated: int
    malformed: int
    failed: int
    completion_tokens: int | None  # over all samples; None where a server did not count those of one


def arrow_schema(row: type[Row]) -> pa.Schema:
    """The Arrow schema that a row type declares; a field is nullable only where its type admits None."""
    import pyarrow as pa

    return pa.schema([_arrow_field(name, f.annotation) for name, f in row.model_fields.items()])


def _arrow_field(name: str, annotation: Any) -> pa.Field:
    import pyarrow as pa

    nullable = get_origin(annotation) in (Union, types.UnionType)
    if nullable:
        (annotation,) = (a for a in get_args(annotation) if a is not type(None))
    return pa.field(name, _arrow_type(annotation), nullable=nullable)


def _arrow_type(annotation: Any) -> pa.DataType:
    import pyarrow as pa

    plain = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    plain |= {Int32: pa.int32(), Float32: pa.float32()}
    if annotation in plain:
        return plain[annotation]
    if get_origin(annotation) is Literal:
        return pa.string()
    if get_origin(annotation) is tuple:
        return pa.list_(_arrow_field("item", get_args(annotation)[0]))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct([_arrow_field(n, f.annotation) for n, f in annotation.model_fields.items()])
    raise TypeError(f"no Arrow type for {annotation!r}")
