"""Filters of what was counted when a trace was sampled: its length, and how sure the teacher was."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from annotated_types import Interval

from filters.result import FilterResult, failed, passed, undecided
from filters.text.prose import count_words

if TYPE_CHECKING:
    from pipeline.rows import Trace

Tokens = Annotated[int, Interval(ge=0)]
Probability = Annotated[float, Interval(ge=0, le=1)]


def length(
    trace: Trace,
    *,
    min_thought: Tokens = 1,
    max_thought: Tokens = 32_768,
    min_answer: Tokens = 1,
    max_answer: Tokens = 8_192,
) -> FilterResult:
    """Thought and response are neither too short nor too long, in tokens.

    A server counts the two together: they share its count as their characters do, unless log-probabilities
    say where the thought ends. Without a count, words stand for tokens. 32,768 tokens is what DeepSeek-R1
    may generate in its own evaluation (arXiv 2501.12948, 3); the other bounds are only sane.
    """
    thought, answer = token_counts(trace)
    for part, count, least, most in (
        ("thought", thought, min_thought, max_thought),
        ("answer", answer, min_answer, max_answer),
    ):
        if count < least:
            return failed(f"short_{part}", str(count))
        if count > most:
            return failed(f"long_{part}", str(count))
    return passed(f"{thought} + {answer}")


def token_counts(trace: Trace) -> tuple[int, int]:
    """Tokens of the thought and of the response, as exactly as the trace says."""
    reasoning = trace.reasoning or ""
    total = trace.completion_tokens
    if total is None:
        return count_words(reasoning), count_words(trace.response)
    kept = trace.logprobs
    if kept is not None:
        thought = min(kept.thought, total)
    else:
        characters = len(reasoning) + len(trace.response)
        thought = round(total * len(reasoning) / characters) if characters else 0
    return thought, total - thought


def confidence(
    trace: Trace, *, min_thought: Probability = 0.5, min_answer: Probability = 0.7
) -> FilterResult:
    """The teacher was sure enough: the geometric mean of its tokens' probabilities reaches the least one set.

    The mean log-probability of a trace is the usual measure in selective distillation, and the average
    confidence of Deep Think with Confidence (Fu et al. 2025, arXiv 2508.15260) is its kin. Sampling at a
    temperature lowers it. Cannot tell where log-probabilities were not asked for.
    """
    parts = (
        ("thought", trace.reasoning_logprob, min_thought, bool(trace.reasoning)),
        ("answer", trace.response_logprob, min_answer, bool(trace.response)),
    )
    means = []
    for part, logprob, least, present in parts:
        if not present:
            continue
        if logprob is None or math.isnan(logprob):
            return undecided("no_logprobs", part)
        means.append(f"{part} {math.exp(min(logprob, 0.0)):.3f}")
        if math.exp(min(logprob, 0.0)) < least:
            return failed(f"unsure_{part}", means[-1])
    return passed(", ".join(means)) if means else undecided("no_logprobs")
