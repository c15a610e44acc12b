"""Filter of correctness: the answer found in the response, compared with the reference."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from filters.answers import extract
from filters.finding import Finding, shorten, unfit
from filters.plain import read_number
from filters.verify import verify
from pipeline.rows import Trace


def correct(trace: Trace, *, timeout: Annotated[float, Field(gt=0)] = 5.0) -> Finding:
    """The answer equals the reference, as far as anybody can tell within `timeout` seconds.

    Where a number is asked for, a response that states no answer in so many words is judged by its last one,
    so that a model that never learned a format is still measured by what it can do.
    """
    answer = _judged_text(trace)
    if answer is None:
        return unfit("no_answer")
    finding = verify(trace.reference, answer, trace.answer_type, trace.metadata, timeout=timeout)
    return finding._replace(evidence=shorten(answer))


def _judged_text(trace: Trace) -> str | None:
    answer = extract(trace.response)
    if answer and answer.how != "last":
        return answer.text
    if trace.answer_type == "math" or read_number(trace.reference or "") is not None:
        return answer.text if answer else None
    return trace.response.strip() or None  # a board, a list of words: the whole response is the answer
