"""The rows that stages write, as frozen pydantic types; arrow_schema.py derives their Arrow schemas.

Every row explains itself: a trace carries its question, reference, teacher, sampling settings, prompt hash,
finish reason, token counts and verdicts. No row but a training Step holds a time or a host name, so a
deterministic teacher gives the same bytes in every run.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict

AnswerType = Literal[
    "math", "number", "choice", "text", "yes_no", "json", "instructions", "python", "free", "reasoning_gym"
]
Split = Literal["train", "held_out"]
FilterOutcome = Literal["passed", "failed", "undecided"]
Outcome = Literal["unfiltered", "kept", "rejected", "undecided"]
Int32 = Annotated[int, "int32"]  # as Arrow stores it
Float32 = Annotated[float, "float32"]


class Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @staticmethod
    def reached(record: dict[str, Any]) -> tuple[int, ...]:
        """How far a row is, compared with others of the same id; `record` has its fields as JSON values."""
        return ()


class Question(Row):
    """A question and what is needed to grade an answer to it."""

    question: str
    reference: str | None  # the known correct answer
    answer_type: AnswerType  # how an answer is compared with the reference
    source: str  # the name of the source in the recipe
    # JSON: a whole reasoning-gym entry, or the tests of a program (filters/sandbox/python_tests.py)
    metadata: str | None = None
    # JSON: the other columns of the source's row by name, without nulls. No filter but `columns` reads it. A
    # trace that a source gave has those of its own row
    columns: str | None = None

    @property
    def column_values(self) -> dict[str, Any]:
        """The other columns by name; a fraction is a Decimal, which stays as it was written."""
        return json.loads(self.columns, parse_float=Decimal) if self.columns else {}


class Problem(Question):
    id: str  # hash of the question's text
    split: Split
    origin: str  # where it was read, for people, such as "problems.jsonl:12"


class Verdict(Row):
    """The result of one filter on one trace."""

    filter: str
    version: int
    outcome: FilterOutcome
    reason: str  # a short code; "" if passed
    evidence: str | None = None  # such as the extracted answer or the matched text


class Sampling(Row):
    temperature: float | None  # None here and below: not sent, the server used its default
    top_p: float | None
    max_tokens: int


class Logprobs(Row):
    """The teacher's natural log-probabilities of the tokens that it sampled."""

    reasoning_tokens: int  # the first tokens that are reasoning, its tags included
    logprobs: tuple[Float32, ...]


class Trace(Question):
    """One sample of a teacher for a problem, and the verdicts on it, which are stored as TraceVerdicts.

    Of a trace that a source gave, prompt and sampling are unknown: None.
    """

    id: str  # "<problem id>-<teacher's position in the recipe>-<sample>"; "-given-<hash>" if a source gave it
    problem_id: str
    sample: int
    teacher: str
    teacher_generation: str | None = (
        None  # "1", or "1+" for at least 1 (pipeline/generations.py); None: unknown
    )
    prompt: str | None
    prompt_hash: str | None
    sampling: Sampling | None
    seed: int | None  # None: not sent
    reasoning: str | None  # however the server sent it; None if there is none
    response: str  # the text after the reasoning
    finish_reason: str  # "stop", "length", ... or "failed" if every request failed
    prompt_tokens: int | None  # of all its requests, continuations included
    completion_tokens: int | None
    continuations: int = 0  # how often it was truncated at max_tokens and continued
    reasoning_logprob: float | None = None  # mean over the reasoning tokens, with generate.logprobs
    response_logprob: float | None = None  # mean over the other tokens
    logprobs: Logprobs | None = None
    error: str | None = None  # why it failed or could not be continued
    verdicts: tuple[Verdict, ...] = ()
    outcome: Outcome = "unfiltered"
    reason: str = ""  # "filter: code" of the first verdict that decided the outcome; "" if kept

    @staticmethod
    def reached(record: dict[str, Any]) -> tuple[int, ...]:
        return record["finish_reason"] != "failed", record["continuations"], record["outcome"] != "unfiltered"


VERDICT_FIELDS = ("verdicts", "outcome", "reason")  # of a Trace that the filter stage decides


class TraceVerdicts(Row):
    """What the rules made of one trace; generate stores the trace. A Trace holds both."""

    id: str  # the trace's
    problem_id: str
    outcome: Outcome
    reason: str
    verdicts: tuple[Verdict, ...]


class Duplicate(Row):
    """A problem or trace that repeats an earlier one."""

    id: str  # the problem's or the trace's
    rule: str  # "duplicate_problem" or "duplicate_trace"
    reason: str
    evidence: str | None


class JudgeVerdict(Row):
    """The LLM judge's verdict on a free-text response. Traces of a shard with the same texts share one."""

    id: str  # hash of the question, the reference and the response
    trace_id: str  # the first trace with these texts
    model: str
    prompt_hash: str
    outcome: FilterOutcome
    reason: str  # "incorrect", "unclear" or "judge_failed"; "" if passed
    reasoning: str | None  # the judge's
    answer: str  # the judge's response, as sent
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    error: str | None = None  # why the judge gave no answer

    @staticmethod
    def reached(record: dict[str, Any]) -> tuple[int, ...]:
        return (record["error"] is None,)


Role = Literal["system", "user", "assistant"]


class Message(Row):
    role: Role
    content: str


ExampleKind = Literal["reasoning", "plain", "chat"]


class Example(Row):
    """A training example. The assistant's last message has the reasoning in <think> tags and the response,
    or with select.reasoning = "none" the response alone.

    Kinds: "reasoning" is a kept trace; "plain" is one without its reasoning, asked for with thinking off;
    "chat" is a dialogue of select.mix. The messages are without the switch: pipeline/inference/thinking.py.
    """

    id: str  # the trace's id
    problem_id: str
    source: str
    teacher: str
    split: Literal["train", "validation"]
    pass_rate: float | None  # fraction of the problem's graded samples that are correct
    confidence: float | None  # mean log-probability per token
    tokens: int | None  # of reasoning and response, as the teacher's server counted them
    messages: tuple[Message, ...]
    kind: ExampleKind = "reasoning"
    rejected: str | None = None  # the assistant's last message in an incorrect trace of the same problem


class TraceScore(Row):
    """How a small model, usually the untrained student, reads a kept trace as it would be taught.

    Over the tokens with loss: those of the assistant's message and its end of turn. None but for the counts
    where the trace is longer than score.max_length.
    """

    id: str  # the trace's
    problem_id: str
    source: str
    teacher: str
    tokens: int  # with loss
    surprisal: float | None  # mean negative log-likelihood of a token, in nats
    rank: float | None  # mean rank of a token among all, from 1; each at most score.max_rank
    ratio: float | None  # rank / surprisal, the Rank-Surprisal Ratio; None, too, if no token is a surprise
    steps: int | None  # that the local naturalness is the mean of; None without score.local
    naturalness: float | None  # mean over the steps of the mean log-probability of a token, in nats
    # Fraction of the student's own graded samples for the problem that are correct; None, too, without
    # score.student_samples
    student_pass_rate: float | None = None


class SoftLabels(Row):
    """The teacher's k likeliest tokens at each of the n tokens of an example that have loss."""

    id: str  # of the example
    digest: str  # of all tokens that the teacher read, and of how many have loss
    k: int
    tokens: tuple[Int32, ...]  # n ids: those with loss; none if every request failed
    logprobs: tuple[Float32, ...]  # n: natural log-probabilities of these
    top_tokens: tuple[Int32, ...]  # n * k ids, by position, likeliest first; padded with -1
    top_logprobs: tuple[Float32, ...]  # n * k
    prompt_tokens: int | None
    completion_tokens: int | None
    error: str | None = None  # why the teacher gave no answer

    @staticmethod
    def reached(record: dict[str, Any]) -> tuple[int, ...]:
        return (record["error"] is None,)
