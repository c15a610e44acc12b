"""The rows about models: steps of a training, compressed forms, scores."""

from __future__ import annotations

from typing import Literal

from pipeline.rows import Row

ExportFormat = Literal["hf", "gguf", "onnx"]
ServedBy = Literal["vllm", "llama.cpp", "onnxruntime"]


class Step(Row):
    """One logged step of a training."""

    id: str  # the step, or "<step>-validation"
    step: int
    steps: int  # planned steps of the whole training
    epoch: float
    loss: float | None
    learning_rate: float | None
    grad_norm: float | None
    tokens: int | None  # supervised and prompt tokens seen so far
    seconds: float | None  # since this process started training
    tokens_per_second: float | None  # over all devices, since the previous row
    validation_loss: float | None
    loss_features: float | None = None  # of white-box terms, without their weights; None where off
    loss_attention_transfer: float | None = None
    loss_relations: float | None = None
    sample_tokens: float | None = None  # of on_policy: mean length of the student's samples
    truncated: float | None = None  # share of them that reached max_tokens
    special: float | None = None  # share of them with special tokens before their end


class Recovered(Row):
    """What a training after the rounding brought, compared with the whole student on examples of the run."""

    steps: int
    measured_on: Literal["validation", "train"]  # train: the run has no validation examples
    examples: int
    divergence_before: float  # KL(whole || compressed), mean over the tokens, in nats
    divergence: float
    same_before: float  # share of the tokens at which both find the same token likeliest
    same: float
    kept: bool  # whether the divergence fell; else the export stayed as it was before


class CompressedModel(Row):
    """One compressed form of the student, which was loaded back and compared with the whole one."""

    id: str  # the scheme: "w8a8", "gguf-q4_k_m", ...
    format: ExportFormat
    path: str  # relative to the run's folder: a model folder, or with "gguf" the file
    bytes: int  # of all its files
    whole_bytes: int  # of the student before
    made_by: str  # tools with their versions, such as "llmcompressor 0.14.0.1"
    served_by: ServedBy
    gpu_only: bool  # whether its server takes it on GPUs only
    calibration_examples: int | None  # None: made without calibration
    calibration_tokens: int | None
    checked_by: str  # program and version that loaded it for the check
    logprob: float  # mean natural log-probability of the whole student's greedy answer, per token
    whole_logprob: float  # the same under the whole student
    answer: str  # its own greedy answer to the question of the check
    recovered: Recovered | None = None  # of w4a16 with compress.recovery


Mode = Literal["reasoning", "plain"]


class DraftScore(Row):
    """How a model would do as a teacher's draft in speculative decoding, on one answer of the teacher."""

    id: str  # "<set>/<teacher>/<draft>/<problem id>"
    set: str
    teacher: str  # its role
    model_role: str  # of the draft
    problem_id: str
    tokens: int  # of the answer
    accepted: float  # sum over them of the probability that the teacher accepts what the draft proposes
    same: int  # tokens at which both find the same token likeliest


class Score(Row):
    """How many samples of one model for one problem were correct, truncated, malformed and so on."""

    id: str  # "<set>/<model role>/<problem id>"
    set: str  # "held_out", or the name of a set of the recipe
    # "base", "student", "student-" and a scheme, "teacher", or "teacher-" and a name; "plain-base" and
    # "plain-student" with thinking off
    model_role: str
    model: str
    prompt: str  # name of the prompt
    problem_id: str
    source: str
    samples: int
    correct: int
    majority: float  # 1 if the most frequent answer is correct; the fraction of correct ones in a tie
    undecided: int  # neither correct nor incorrect; never counted as correct
    truncated: int
    malformed: int
    failed: int
    completion_tokens: int | None  # of all answers; None if the server did not count one of them
    mode: Mode = "reasoning"  # whether the model was asked to think
    with_reasoning: int | None = None  # samples that have reasoning; None: not counted
