"""Filter of correctness: the answer extracted from the response, compared with the reference."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

from filters.extract.answer import Answer, after_reasoning, extract, strip_reasoning
from filters.extract.context import (
    AFTER,
    BEFORE,
    Statement,
    is_qualified,
    is_retracted,
    later_answer,
    statement,
    without_denied_options,
)
from filters.grade.choice import CHOICE, parse_choice
from filters.grade.compare import is_missing
from filters.grade.grader import TEXT_LIMIT, TIMEOUT, final_reference, grade_answer
from filters.grade.json_answer import find_json
from filters.grade.numbers import parse_quantity
from filters.policy import DEFAULT, Boxes, Policy
from filters.result import FilterResult, shorten, undecided
from filters.text.normalize import normalize, strip_markup

if TYPE_CHECKING:
    from pipeline.rows import AnswerType, Trace

PROSE_LIMIT = 300  # characters of a response that may be graded as a whole
# Other types must be parsed first: two equal texts may be no number, or JSON that is refused.
_EQUAL_IF_SAME_TEXT = frozenset(("math", "text", "reasoning_gym"))
_GRADED_BY_CLAUSE = frozenset(("choice", "yes_no"))  # their readers weigh the words of each clause
_STATED = frozenset(("math", "number", "choice", "yes_no", "text"))  # words around the answer matter


def correct(
    trace: Trace,
    *,
    timeout: Annotated[float, Gt(0), Le(3600)] = TIMEOUT,
    rounding_digits: Annotated[int, Ge(0), Le(15)] = DEFAULT.rounding_digits,
    percent_sign_optional: bool = DEFAULT.percent_sign_optional,
    unit_optional: bool = DEFAULT.unit_optional,
    ordered_lists: bool = DEFAULT.ordered_lists,
    several_boxes: Boxes = DEFAULT.several_boxes,
    case_sensitive: bool = DEFAULT.case_sensitive,
    code_seconds: Annotated[float, Gt(0), Le(600)] = 5.0,
    code_memory_mb: Annotated[int, Ge(64), Le(65_536)] = 1024,
    sandbox: Literal["full", "limits"] = "full",
) -> FilterResult:
    """The answer equals the reference, as far as can be decided within `timeout` seconds.

    If the answer is a number and the response does not state one explicitly, its last number is graded, so
    that a model that never learned an answer format is still measured. A program is run against the tests of
    its problem (`filters.sandbox.python_tests`), with `code_seconds` of CPU time for each input and
    `code_memory_mb` of memory, in the `sandbox` of `filters.sandbox.runner.run`. The other parameters are
    those of `filters.policy.Policy`.
    """
    if trace.answer_type == "python":
        from filters.sandbox.python_tests import passes_tests  # it loads pydantic, which only programs need

        return passes_tests(trace, seconds=code_seconds, memory_mb=code_memory_mb, sandbox=sandbox)
    policy = Policy(
        rounding_digits, percent_sign_optional, unit_optional, ordered_lists, several_boxes, case_sensitive
    )
    return grade_response(
        trace.reference, trace.response, trace.answer_type, trace.metadata, timeout=timeout, policy=policy
    )


def grade_response(
    reference: str | None,
    response: str,
    answer_type: AnswerType,
    metadata: str | None = None,
    *,
    timeout: float = TIMEOUT,
    policy: Policy = DEFAULT,
) -> FilterResult:
    """Grades a whole response; the evidence is the answer extracted from it."""
    if len(reference or "") > TEXT_LIMIT and answer_type in _STATED:
        return undecided("refused")
    short = len(response) <= PROSE_LIMIT and answer_type in _EQUAL_IF_SAME_TEXT
    bare = strip_markup(response) if reference and short else ""
    if bare and reference and bare == strip_markup(reference) and not is_missing(reference, words=False):
        return FilterResult("passed", "", bare, "text")
    answer = answer_to_grade(reference, response, answer_type, policy)
    if answer is None:
        return undecided("no_answer")
    result = grade_answer(reference, answer.text, answer_type, metadata, timeout=timeout, policy=policy)
    if result.outcome != "undecided" and answer_type in _STATED:
        result = _unless_withdrawn(result, reference or "", response, answer, answer_type, policy)
    if result.outcome == "passed" and answer_type == "json" and _denies_json(response, answer.text):
        result = undecided("retracted")
    return result._replace(evidence=shorten(answer.text))


def _unless_withdrawn(
    result: FilterResult,
    reference: str,
    response: str,
    answer: Answer,
    answer_type: AnswerType,
    policy: Policy,
) -> FilterResult:
    """The result, or undecided if the response retracts the answer or makes it conditional."""
    if result.outcome == "failed" and answer.end >= len(response):
        return result
    stated = statement_of(response, answer, answer_type)
    later = later_answer(stated)
    if later is not None:
        other = grade_answer(answer.text, later, answer_type, policy=policy).outcome
        if other != "passed" and not (other == "undecided" and later == answer.text):
            return undecided("retracted")
    elif is_retracted(stated):
        return undecided("retracted")
    known = answer.text if result.layer in _GRADED_BY_CLAUSE else reference
    if result.outcome == "passed" and is_qualified(stated, known):
        return undecided("qualified")
    return result


def statement_of(response: str, answer: Answer, answer_type: AnswerType) -> Statement:
    """Returns an answer with its context, without lines that deny other options."""
    stated = statement(response, answer)
    choice = parse_choice(normalize(answer.text), CHOICE) if answer_type == "choice" else None
    return without_denied_options(stated, choice.letter) if choice else stated


_OPENING = re.compile(r"\s*(?:[`~]{3,}\w*\s*|<\w+>\s*)?\Z")  # of a code block or a tag, before a value


def _denies_json(response: str, value: str) -> bool:
    """Whether a response denies its JSON value before it, or takes it back after it."""
    before, _, after = strip_reasoning(response).rpartition(value)
    before = _OPENING.sub(" ", before[-BEFORE:])
    denied = is_qualified(Statement(before, "", value, "", "boxed"), value)
    return denied or is_retracted(Statement("", "", value, after[:AFTER], "boxed"))


def answer_to_grade(
    reference: str | None, response: str, answer_type: AnswerType, policy: Policy
) -> Answer | None:
    """The part of a response to grade as its answer; None if there is none."""
    if answer_type == "json":
        found = find_json(response)
        return None if found is None else Answer(found, "whole")
    if answer_type == "instructions":
        return _entire(strip_reasoning(response))
    answer = extract(response, policy.several_boxes)
    if answer_type == "number" or (answer and answer.how != "last"):
        return answer
    bare = after_reasoning(response).strip()
    if answer_type in ("choice", "yes_no"):  # its end, from a whole word on
        end = bare[-PROSE_LIMIT:].partition(" ")[2].strip()
        return _entire(bare if len(bare) <= PROSE_LIMIT else end)
    if answer_type == "math":  # a short response as a whole if the reference is the letter of an option
        short = reference if len(bare) <= PROSE_LIMIT else None
        return _entire(bare) if short and parse_choice(normalize(final_reference(short))) else answer
    if reference is not None and parse_quantity(normalize(reference)):
        return answer
    return _entire(response.strip())  # a board or a list of words: the whole response is the answer


def _entire(text: str) -> Answer | None:
    """An answer that is the whole text, with nothing around it."""
    return Answer(text, "whole", 0, sys.maxsize) if text else None
