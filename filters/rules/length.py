"""Filters on a trace's counts: its length in tokens, and how confident the teacher was."""

from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Interval

from filters.result import FilterResult, failed, passed, undecided
from filters.text.prose import count_words
from pipeline.rows import Trace

Tokens = Annotated[int, Interval(ge=0)]
Probability = Annotated[float, Interval(ge=0, le=1)]


def length(
    trace: Trace,
    *,
    min_reasoning: Tokens = 1,
    max_reasoning: Tokens = 32_768,
    min_response: Tokens = 1,
    max_response: Tokens = 8_192,
) -> FilterResult:
    """Reasoning and response are neither too short nor too long, in tokens.

    A server counts both together. The count is split where log-probabilities say that the reasoning ends,
    else in proportion to characters; without a count, words stand for tokens. 32,768 is DeepSeek-R1's limit
    in its own evaluation (arXiv 2501.12948, section 3); the other defaults are merely plausible.
    """
    reasoning, response = token_counts(trace)
    for part, count, low, high in (
        ("reasoning", reasoning, min_reasoning, max_reasoning),
        ("response", response, min_response, max_response),
    ):
        if not low <= count <= high:
            return failed(f"{'short' if count < low else 'long'}_{part}", str(count))
    return passed(f"{reasoning} + {response}")


def token_counts(trace: Trace) -> tuple[int, int]:
    """Tokens of the reasoning and of the response, as exactly as the trace tells."""
    reasoning = trace.reasoning or ""
    total = trace.completion_tokens
    if total is None:
        return count_words(reasoning), count_words(trace.response)
    if trace.logprobs is not None:
        first = min(trace.logprobs.reasoning_tokens, total)
    else:
        characters = len(reasoning) + len(trace.response)
        first = round(total * len(reasoning) / characters) if characters else 0
    return first, total - first


def confidence(
    trace: Trace, *, min_reasoning: Probability = 0.5, min_response: Probability = 0.7
) -> FilterResult:
    """The teacher was confident: the geometric mean of its token probabilities reaches a minimum.

    The mean log-probability of a trace is a usual measure in selective distillation, close to the average
    confidence of Deep Think with Confidence (Fu et al. 2025, arXiv 2508.15260). Sampling at a temperature
    lowers it. Undecided where log-probabilities were not requested.
    """
    parts = (
        ("reasoning", trace.reasoning_logprob, min_reasoning, bool(trace.reasoning)),
        ("response", trace.response_logprob, min_response, bool(trace.response)),
    )
    means = []
    for part, logprob, low, present in parts:
        if not present:
            continue
        if logprob is None or math.isnan(logprob):
            return undecided("no_logprobs", part)
        mean = math.exp(min(logprob, 0.0))
        means.append(f"{part} {mean:.3f}")
        if mean < low:
            return failed(f"unsure_{part}", means[-1])
    return passed(", ".join(means)) if means else undecided("no_logprobs")
