"""Filter of agreement: the thought ends on the answer that the response gives.

A response whose answer comes from nowhere teaches a student that the thought does not matter.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from filters.extract.answer import extract
from filters.extract.sentences import last_expression
from filters.grade.grader import BY_VALUE, verify
from filters.grade.json_answer import JSON_LIMIT, find_json, is_several
from filters.result import FilterResult, failed, passed, shorten, undecided

if TYPE_CHECKING:
    from pipeline.rows import Trace

TAIL = 4_000  # characters at the end of a thought in which its result is stated
ENDING = 400  # characters at the end in which the answer is looked for as it stands
_BEFORE = re.compile(r"(?:[\w−-]|\d[.,])\Z")  # noqa: RUF001
_AFTER = re.compile(r"[\w%]|[.,]\d")
# What makes a mention none: "not 7", "is it 7?".
_DENIED = re.compile(
    r"(?:\b(?:not|never|nor|cannot be|instead of|rather than)|n['’]t|≠|!=|\\neq?)"  # noqa: RUF001
    r"(?: be| equal| to| just| really| a| an| the){0,2}[\s$(*\"']{0,4}\Z"
)
_ASKED = re.compile(r"[\s$)*\"']{0,4}[?？]")  # noqa: RUF001
_STATED = ("boxed", "tag", "phrase")
_NUMERIC = ("math", "number", "reasoning_gym")


def consistency(trace: Trace) -> FilterResult:
    """The last result that the thought states is the response's answer, or the answer is what it ends with.

    A stated result is a box, a tag or "the answer is"; a last number or formula that has the answer's value
    is one too, though another says nothing. JSON is read from both as `correct` reads it. Cannot tell where
    neither the thought nor the response states a result, or where the two cannot be compared. Evidence: the
    thought's result and the response's.
    """
    if trace.answer_type in ("python", "free"):
        return passed()  # a program or an essay is no result that a thought states
    answer = _answer(trace)
    if answer is None:
        return undecided("no_answer")
    if not trace.reasoning or not trace.reasoning.strip():
        return undecided("no_thought")
    if trace.answer_type == "json":
        return _json(trace.reasoning, answer, trace)
    tail, ending = trace.reasoning[-TAIL:], trace.reasoning[-ENDING:]
    stated = extract(tail)
    if stated is None or stated.how not in _STATED or (stated.how == "phrase" and "?" in stated.text):
        return passed(answer) if _mentions(ending, answer) or _ends_on(ending, answer, trace) else _NO_RESULT
    evidence = shorten(f"{stated.text[:200]} | {answer[:200]}")
    same = _same(stated.text, answer, trace)
    if same.outcome != "passed" and _mentions(tail.rpartition(stated.text)[2], answer):
        return passed(evidence)  # it thought again after what it stated first
    if same.outcome == "failed":
        return failed("disagrees", evidence)
    return same._replace(evidence=evidence)


_NO_RESULT = undecided("no_result")


def _answer(trace: Trace) -> str | None:
    if trace.answer_type == "json":
        return find_json(trace.response)
    answer = extract(trace.response)
    return answer.text if answer else None


def _json(thought: str, answer: str, trace: Trace) -> FilterResult:
    """JSON that the thought ends with is its result; what stands further up may be an example."""
    stated = find_json(thought[-JSON_LIMIT:])
    if stated is None or is_several(stated):
        return passed(answer) if _mentions(thought[-ENDING:], answer) else _NO_RESULT
    evidence = shorten(f"{stated[:200]} | {answer[:200]}")
    same = _same(stated, answer, trace)
    if same.outcome != "failed":
        return same._replace(evidence=evidence)
    last = len(thought.rpartition(stated)[2]) <= ENDING
    return failed("disagrees", evidence) if last else undecided("no_result", evidence)


def _ends_on(ending: str, answer: str, trace: Trace) -> bool:
    """Whether the last formula or number of the ending is the answer in another spelling."""
    last = last_expression(ending) if trace.answer_type in _NUMERIC else None
    if not last or not _is_said(ending.lower(), max(ending.rfind(last), 0), len(last)):
        return False
    return _same(last, answer, trace).outcome == "passed"


def _same(stated: str, answer: str, trace: Trace) -> FilterResult:
    if stated.strip() == answer.strip():
        return passed()
    if trace.answer_type in BY_VALUE:
        return verify(stated, answer, trace.answer_type)
    if trace.answer_type == "reasoning_gym" and verify(stated, answer, "math").outcome == "passed":
        return passed()
    return verify(stated, answer, "text")


def _mentions(text: str, answer: str) -> bool:
    """Whether the answer stands in the text by itself, and is said: 7 is not in 17, 7.5 or -7."""
    text, answer = text.lower(), answer.strip().lower()
    at = text.find(answer) if answer else -1
    while at >= 0:
        alone = not _BEFORE.search(text[max(at - 2, 0) : at]) and not _AFTER.match(text, at + len(answer))
        if alone and _is_said(text, at, len(answer)):
            return True
        at = text.find(answer, at + 1)
    return False


def _is_said(text: str, at: int, size: int) -> bool:
    """Whether what stands there is neither denied nor asked."""
    return not _DENIED.search(text[max(at - 30, 0) : at]) and not _ASKED.match(text, at + size)
