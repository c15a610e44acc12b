"""Filter of consistency: the reasoning ends with the answer that the response gives.

A response whose answer does not follow from the reasoning teaches a student that reasoning does not matter.
"""

from __future__ import annotations

import re

from filters.extract.answer import extract
from filters.extract.sentences import last_expression
from filters.grade import parse
from filters.grade.grader import COMPARED_BY_VALUE, grade_answer
from filters.grade.json_answer import JSON_LIMIT, find_json, is_several
from filters.result import FilterResult, failed, passed, shorten, undecided
from pipeline.rows import Trace

TAIL = 4_000  # characters at the end of the reasoning that are searched for a stated result
ENDING = 400  # characters at the end that are searched for the answer verbatim
_BEFORE = re.compile(r"(?:[\w−-]|\d[.,])\Z")  # noqa: RUF001
_AFTER = re.compile(r"[\w%]|[.,]\d")
# Denials and questions do not count as mentions: "not 7", "is it 7?".
_DENIED = re.compile(
    r"(?:\b(?:not|never|nor|cannot be|instead of|rather than)|n['’]t|≠|!=|\\neq?)"  # noqa: RUF001
    r"(?: be| equal| to| just| really| a| an| the){0,2}[\s$(*\"']{0,4}\Z"
)
_QUESTION = re.compile(r"[\s$)*\"']{0,4}[?？]")  # noqa: RUF001
_STATED = ("boxed", "tag", "phrase")
_NUMERIC = ("math", "number", "reasoning_gym")


def consistency(trace: Trace) -> FilterResult:
    """The last result stated in the reasoning equals the response's answer, or the reasoning ends with it.

    A stated result is a box, a tag or "the answer is". A last number or formula counts only if it has the
    answer's value. JSON is extracted from both parts as `correct` extracts it. Undecided where either part
    states no result, or the two cannot be compared. Evidence: the result of the reasoning and the answer.
    """
    if trace.answer_type in ("instructions", "python", "free"):
        return passed()  # reasoning does not state a whole program or essay as its result
    answer = parse(trace.response, "json" if trace.answer_type == "json" else "math")
    if answer is None:
        return undecided("no_answer")
    if not trace.reasoning or not trace.reasoning.strip():
        return undecided("no_reasoning")
    if trace.answer_type == "json":
        return _json_result(trace.reasoning, answer, trace)
    tail, ending = trace.reasoning[-TAIL:], trace.reasoning[-ENDING:]
    stated = extract(tail)
    if stated is None or stated.how not in _STATED or (stated.how == "phrase" and "?" in stated.text):
        return passed(answer) if _mentions(ending, answer) or _ends_on(ending, answer, trace) else _NO_RESULT
    evidence = shorten(f"{stated.text[:200]} | {answer[:200]}")
    same = _same(stated.text, answer, trace)
    if same.outcome != "passed" and _mentions(tail.rpartition(stated.text)[2], answer):
        return passed(evidence)  # a later mention outweighs the earlier stated result
    if same.outcome == "failed":
        return failed("disagrees", evidence)
    return same._replace(evidence=evidence)


_NO_RESULT = undecided("no_result")


def _json_result(reasoning: str, answer: str, trace: Trace) -> FilterResult:
    """Compares JSON at the end of the reasoning with the answer; JSON further up may be an example."""
    stated = find_json(reasoning[-JSON_LIMIT:])
    if stated is None or is_several(stated):
        return passed(answer) if _mentions(reasoning[-ENDING:], answer) else _NO_RESULT
    evidence = shorten(f"{stated[:200]} | {answer[:200]}")
    same = _same(stated, answer, trace)
    if same.outcome != "failed":
        return same._replace(evidence=evidence)
    last = len(reasoning.rpartition(stated)[2]) <= ENDING
    return failed("disagrees", evidence) if last else undecided("no_result", evidence)


def _ends_on(ending: str, answer: str, trace: Trace) -> bool:
    """Whether the last formula or number of the ending has the answer's value."""
    last = last_expression(ending) if trace.answer_type in _NUMERIC else None
    if not last or not _is_asserted(ending.lower(), max(ending.rfind(last), 0), len(last)):
        return False
    return _same(last, answer, trace).outcome == "passed"


def _same(stated: str, answer: str, trace: Trace) -> FilterResult:
    if stated.strip() == answer.strip():
        return passed()
    if trace.answer_type in COMPARED_BY_VALUE:
        return grade_answer(stated, answer, trace.answer_type)
    if trace.answer_type == "reasoning_gym" and grade_answer(stated, answer, "math").outcome == "passed":
        return passed()
    return grade_answer(stated, answer, "text")


def _mentions(text: str, answer: str) -> bool:
    """Whether the text asserts the answer as a separate word: 17, 7.5 and -7 do not mention 7."""
    text, answer = text.lower(), answer.strip().lower()
    at = text.find(answer) if answer else -1
    while at >= 0:
        alone = not _BEFORE.search(text[max(at - 2, 0) : at]) and not _AFTER.match(text, at + len(answer))
        if alone and _is_asserted(text, at, len(answer)):
            return True
        at = text.find(answer, at + 1)
    return False


def _is_asserted(text: str, at: int, size: int) -> bool:
    """Whether the text at this position is neither denied nor part of a question."""
    return not _DENIED.search(text[max(at - 30, 0) : at]) and not _QUESTION.match(text, at + size)
