"""Is an answer the reference's equal? Three answers, never two: correct, wrong, cannot tell.

In layers, the cheap and certain first: the same text; two plain numbers, read exactly (`filters.plain`); then
math-verify or the task's own scorer in a checking process (`filters.worker`). A time-out, a crash or a text
that nobody can read is "cannot tell". Nothing of the model's is evaluated in this process.
"""

from __future__ import annotations

import json
import re

from filters import worker
from filters.answers import extract, tidy
from filters.finding import Finding, cannot_tell, fit, unfit
from filters.plain import compare, fold, fold_characters, fold_text
from pipeline.rows import AnswerType

MATH_LIMIT = 2000  # characters of an answer to compare as mathematics
TEXT_LIMIT = 100_000  # characters of an answer to compare as text, or to score


def verify(
    reference: str | None,
    answer: str,
    answer_type: AnswerType,
    metadata: str | None = None,
    *,
    timeout: float = 5.0,
) -> Finding:
    """Compare an answer with the reference, in at most `timeout` seconds and the start of a process."""
    if len(answer) > TEXT_LIMIT:
        return cannot_tell("too_long")
    if answer_type == "reasoning_gym":
        return _verify_gym(reference, answer, metadata, timeout)
    if reference is None or not reference.strip():
        return cannot_tell("no_reference")
    if answer_type == "text":
        return fit() if fold_text(reference) == fold_text(answer) else unfit("wrong")
    return _verify_math(_final(reference), tidy(answer), timeout)


def _final(reference: str) -> str:
    """The answer in a reference, which may be a whole worked solution, as in GSM8K and MATH."""
    answer = extract(reference)
    return tidy(answer.text if answer and answer.how in ("boxed", "tag", "phrase") else reference)


_COPULA = re.compile(r"\s(?:is|are|equals)\b:?")
_WORD = re.compile(r"[A-Za-z]{2}")


def _verify_math(reference: str, answer: str, timeout: float) -> Finding:
    if len(reference) > MATH_LIMIT or len(answer) > MATH_LIMIT:
        return cannot_tell("too_long")
    reference, answer = fold_characters(reference), _after_prose(fold_characters(answer))
    same = compare(fold(reference), fold(answer))
    if same is not None:
        return fit() if same else unfit("wrong")
    return _from_outcome(worker.check("math", {"reference": reference, "answer": answer}, timeout))


def _after_prose(answer: str) -> str:
    """What follows "the largest n is", where nothing before it could be mathematics."""
    copula = _COPULA.search(answer)
    head = answer[: copula.start()] if copula else ""
    if not copula or not _WORD.search(head) or any(mark in head for mark in "=<>"):
        return answer
    return tidy(answer[copula.end() :])


def _verify_gym(reference: str | None, answer: str, metadata: str | None, timeout: float) -> Finding:
    if reference is not None and reference.strip() == answer.strip():
        return fit()
    if metadata is None:
        return cannot_tell("no_reference")
    readings = list(dict.fromkeys((answer, tidy(answer))))  # a board may end in dots that a sentence may not
    arguments = {"entry": json.loads(metadata), "answers": readings}
    return _from_outcome(worker.check("reasoning_gym", arguments, timeout))


def _from_outcome(outcome: str) -> Finding:
    if outcome == "correct":
        return fit()
    return unfit("wrong") if outcome == "wrong" else cannot_tell(outcome)
