"""Filters of a trace's form: did it end by itself, is there one thought, is one answer stated.

None of them asks whether the answer is right; that is `filters.correct`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from filters.answers import extract
from filters.finding import Finding, cannot_tell, fit, unfit
from filters.kinds import find_json
from filters.verify import BY_VALUE, verify

if TYPE_CHECKING:
    from pipeline.rows import Trace

BOXES_LIMIT = 8  # that are compared with the answer; comparing may take long

_BOX = re.compile(r"(?=\\(?:boxed|fbox)[ {])")
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

    A number that merely comes last in a sentence is not a stated answer, though `correct` may judge by it. A
    free answer is the whole response, a program its last block, JSON its last value. Several boxes must hold
    the same value, unless they are the parts of one answer: "x = 1 and y = 2".
    """
    whole = _whole(trace)
    if whole is not None:
        return fit(whole) if whole.strip() else unfit("no_answer")
    answer = extract(trace.response)
    if answer is None or answer.how == "last":
        return unfit("no_answer")
    others = [box for box in _boxes(trace.response) if box not in (answer.text, *answer.text.split(", "))]
    for box in others[:BOXES_LIMIT]:
        both = f"{box[:200]} | {answer.text[:200]}"
        if trace.answer_type not in BY_VALUE:
            return unfit("several_answers", both)
        same = verify(answer.text, box, trace.answer_type).outcome
        if same != "pass":
            return unfit("several_answers", both) if same == "fail" else cannot_tell("several_answers", both)
    return fit(answer.text)


def _whole(trace: Trace) -> str | None:
    """The answer of a kind that no phrase states, "" where there is none; None for other kinds."""
    if trace.answer_type == "free":
        return trace.response
    if trace.answer_type == "python":
        from filters.code import last_block  # here, because it loads pydantic

        return last_block(trace.response) or ""
    if trace.answer_type == "json":
        return find_json(trace.response) or ""
    return None


def _boxes(response: str) -> list[str]:
    """What each closed box holds, each text once."""
    pieces = _BOX.split(response)[1:]
    found = (extract(piece) for piece in pieces)
    return list(dict.fromkeys(answer.text for answer in found if answer and answer.how == "boxed"))
