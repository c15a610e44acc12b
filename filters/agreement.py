"""Filter of agreement: the thought ends on the answer that the response gives.

A response whose answer comes from nowhere teaches a student that the thought does not matter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from filters.answers import extract
from filters.finding import Finding, cannot_tell, fit, shorten, unfit
from filters.verify import BY_VALUE, verify

if TYPE_CHECKING:
    from pipeline.rows import Trace

TAIL = 4_000  # characters at the end of a thought in which its result is stated
ENDING = 400  # characters at the end in which the answer is looked for as it stands
_BEFORE = re.compile(r"(?:[\w−-]|\d[.,])\Z")  # noqa: RUF001
_AFTER = re.compile(r"[\w%]|[.,]\d")
_STATED = ("boxed", "tag", "phrase")


def agreement(trace: Trace) -> Finding:
    """The last result that the thought states is the response's answer, or the answer is what it ends with.

    A stated result is a box, a tag or "the answer is". Cannot tell where neither the thought nor the response
    states one, or where the two cannot be compared. Evidence: the thought's result and the response's.
    """
    if trace.answer_type in ("python", "free"):
        return fit()  # a program or an essay is no result that a thought states
    answer = extract(trace.response)
    if answer is None:
        return cannot_tell("no_answer")
    if not trace.reasoning or not trace.reasoning.strip():
        return cannot_tell("no_thought")
    ending = trace.reasoning[-ENDING:]
    stated = extract(trace.reasoning[-TAIL:])
    if stated is None or stated.how not in _STATED:
        return fit(answer.text) if _mentions(ending, answer.text) else cannot_tell("no_result")
    evidence = shorten(f"{stated.text[:200]} | {answer.text[:200]}")
    same = _same(stated.text, answer.text, trace)
    if same.outcome != "pass" and _mentions(trace.reasoning[-TAIL:].rpartition(stated.text)[2], answer.text):
        return fit(evidence)  # it thought again after what it stated first
    if same.outcome == "fail":
        return unfit("disagrees", evidence)
    return same._replace(evidence=evidence)


def _same(stated: str, answer: str, trace: Trace) -> Finding:
    if stated.strip() == answer.strip():
        return fit()
    return verify(stated, answer, trace.answer_type if trace.answer_type in BY_VALUE else "text")


def _mentions(text: str, answer: str) -> bool:
    """Whether the answer stands in the text by itself: 7 is not in 17, 7.5 or -7."""
    text, answer = text.lower(), answer.strip().lower()
    at = text.find(answer) if answer else -1
    while at >= 0:
        end = at + len(answer)
        if not _BEFORE.search(text[max(at - 2, 0) : at]) and not _AFTER.match(text, end):
            return True
        at = text.find(answer, at + 1)
    return False
