"""The chat format of a training example.

The assistant's message holds the reasoning in <think> tags before the response, as in R1-Distill, or the
response alone.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal

import prompts
from filters.rules.length import token_counts
from pipeline.config import Recipe
from pipeline.rows import Example, ExampleKind, Message, Trace

Reasoning = Literal["tags", "none"]  # select.reasoning


def confidence(trace: Trace) -> float | None:
    """The mean log-probability of a token; from the means of the two parts, weighted by their characters."""
    if trace.logprobs is not None and trace.logprobs.logprobs:
        return sum(trace.logprobs.logprobs) / len(trace.logprobs.logprobs)
    parts = ((trace.reasoning, trace.reasoning_logprob), (trace.response, trace.response_logprob))
    means = [(len(text), mean) for text, mean in parts if text]
    if not means or any(mean is None for _, mean in means):
        return None
    return sum(length * (mean or 0) for length, mean in means) / sum(length for length, _ in means)


def response_only(trace: Trace) -> Trace:
    """The trace without its reasoning; tokens and log-probabilities are those of the response."""
    if trace.reasoning is None:
        return trace
    tokens = None if trace.completion_tokens is None else token_counts(trace)[1]
    values = trace.logprobs and trace.logprobs.logprobs[trace.logprobs.reasoning_tokens :]
    mean = sum(values) / len(values) if values else trace.response_logprob
    update = {"reasoning": None, "reasoning_logprob": None, "logprobs": None}
    return trace.model_copy(update={**update, "response_logprob": mean, "completion_tokens": tokens})


def assistant_text(trace: Trace) -> str:
    """The text that the student learns: <think> reasoning </think> response (R1-Distill), or the response."""
    if trace.reasoning is None:
        return trace.response
    return f"<think>\n{trace.reasoning}\n</think>\n\n{trace.response}"


def untaught(trace: Trace, reasoning: Reasoning) -> str | None:
    """Why a trace cannot be taught, as a key of select's LEFT_OUT; None if it can."""
    if reasoning == "tags" and not (trace.reasoning or "").strip():
        return "without_reasoning"
    return None if trace.response.strip() else "without_answer"


def messages(trace: Trace, prompt: prompts.Prompt) -> tuple[Message, ...]:
    """The dialogue that the student learns: the prompt, and the assistant's text."""
    return (*prompt.render(trace), Message(role="assistant", content=assistant_text(trace)))


def to_example(
    trace: Trace,
    rate: float | None,
    prompt: prompts.Prompt,
    recipe: Recipe,
    kind: ExampleKind = "reasoning",
    rejected: Trace | None = None,
) -> Example:
    return Example(
        id=trace.id,
        problem_id=trace.problem_id,
        source=trace.source,
        teacher=trace.teacher,
        split=split_of(trace.problem_id, recipe),
        pass_rate=rate,
        confidence=confidence(trace),
        tokens=trace.completion_tokens,
        messages=messages(trace, prompt),
        kind=kind,
        rejected=assistant_text(rejected) if rejected else None,
    )


def split_of(problem_id: str, recipe: Recipe) -> Literal["train", "validation"]:
    """The split of all examples of a problem."""
    validation = position("validation", problem_id, recipe.seed) < recipe.select.validation
    return "validation" if validation else "train"


def position(purpose: str, id: str, seed: int) -> float:
    """A number in [0, 1) from an id: the same in every run, and another one for each purpose."""
    return hash_number(purpose, id, seed) / 2**64


def hash_number(purpose: str, id: str, seed: int) -> int:
    """The same as a 64-bit number, which keeps all bits."""
    text = json.dumps([purpose, seed, id])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
