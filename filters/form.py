"""Filters of a trace's form: did it end by itself, is there one thought, is one answer stated.

None of them asks whether the answer is right; that is `filters.correct`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from filters.answers import extract
from filters.finding import Finding, fit, unfit

if TYPE_CHECKING:
    from pipeline.rows import Trace

_THINK_TAG = re.compile(r"</?think>", re.IGNORECASE)


def finished(trace: Trace) -> Finding:
    """The model ended by itself: not cut off at max_tokens, and the request did not fail."""
    if trace.finish_reason == "stop":
        return fit()
    if trace.finish_reason == "length":
        return unfit("truncated")
    return unfit(trace.finish_reason or "no_finish_reason", trace.error)


def one_thought(trace: Trace) -> Finding:
    """Exactly one closed, non-empty thought, and something after it.

    The client puts a closed thought into `reasoning` and what follows into `response`; a thought that was
    never closed leaves `response` empty; text whose tags are out of order is left whole in `response`. So a
    tag that is still there means a second thought, or tags that do not pair.
    """
    stray = _THINK_TAG.search(trace.reasoning or "") or _THINK_TAG.search(trace.response)
    if stray:
        return unfit("stray_tags", stray[0])
    if trace.reasoning is None:
        return unfit("no_thought" if trace.response.strip() else "no_response")
    if not trace.reasoning.strip():
        return unfit("empty_thought")
    if not trace.response:
        return unfit("unclosed")
    if not trace.response.strip():
        return unfit("no_response")
    return fit()


def final_answer(trace: Trace) -> Finding:
    """The response states one final answer: boxed, in <answer> tags, after "the answer is", or nothing else.

    A number that merely comes last in a sentence is not a stated answer, though `correct` may judge by it.
    """
    answer = extract(trace.response)
    if answer is None or answer.how == "last":
        return unfit("no_answer")
    return fit(answer.text)
