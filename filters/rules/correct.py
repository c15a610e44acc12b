"""Filter of correctness: the answer found in the response, compared with the reference."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

from filters.extract.answer import Answer, after_thought, extract
from filters.extract.context import later_answer, qualified, statement, taken_back
from filters.grade.choice import read_choice
from filters.grade.compare import is_missing
from filters.grade.grader import TEXT_LIMIT, TIMEOUT, final_reference, verify
from filters.grade.json_answer import find_json
from filters.grade.numbers import read_quantity
from filters.policy import DEFAULT, Boxes, Policy
from filters.result import FilterResult, shorten, undecided
from filters.text.normalize import fold, tidy

if TYPE_CHECKING:
    from pipeline.rows import AnswerType, Trace

PROSE_LIMIT = 300  # characters of a response that is judged whole


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
    """The answer equals the reference, as far as anybody can tell within `timeout` seconds.

    Where a number is asked for, a response that states no answer in so many words is judged by its last one,
    so that a model that never learned a format is still measured by what it can do. A program is run against
    its problem's tests instead (`filters.sandbox.python_tests`), within `code_seconds` of CPU time for each
    input and `code_memory_mb`, in the `sandbox` of `filters.sandbox.runner.run`. The other parameters are
    those of `filters.policy.Policy`.
    """
    if trace.answer_type == "python":
        from filters.sandbox.python_tests import (
            passes_tests,  # it imports pydantic, which no other answer needs
        )

        return passes_tests(trace, seconds=code_seconds, memory_mb=code_memory_mb, sandbox=sandbox)
    policy = Policy(
        rounding_digits, percent_sign_optional, unit_optional, ordered_lists, several_boxes, case_sensitive
    )
    return judge_response(
        trace.reference, trace.response, trace.answer_type, trace.metadata, timeout=timeout, policy=policy
    )


def judge_response(
    reference: str | None,
    response: str,
    answer_type: AnswerType,
    metadata: str | None = None,
    *,
    timeout: float = TIMEOUT,
    policy: Policy = DEFAULT,
) -> FilterResult:
    """The verdict on a whole response, with the answer that was found in it as evidence."""
    if len(reference or "") > TEXT_LIMIT and answer_type in _STATED:
        return undecided("refused")
    short = len(response) <= PROSE_LIMIT and answer_type in _SAME_IF_SPELT_SO
    bare = tidy(response) if reference and short else ""
    if bare and reference and bare == tidy(reference) and not is_missing(reference, words=False):
        return FilterResult("passed", "", bare, "text")
    answer = judged_answer(reference, response, answer_type, policy)
    if answer is None:
        return undecided("no_answer")
    finding = verify(reference, answer.text, answer_type, metadata, timeout=timeout, policy=policy)
    if finding.outcome != "undecided" and answer_type in _STATED:
        finding = _withstanding(finding, reference or "", response, answer, answer_type, policy)
    return finding._replace(evidence=shorten(answer.text))


# The others have to be read first: two equal texts may be no number, or JSON that is refused.
_SAME_IF_SPELT_SO = frozenset(("math", "text", "reasoning_gym"))
_READ_BY_CLAUSE = frozenset(("choice", "yes_no"))  # by readers that weigh each clause's words
_STATED = frozenset(("math", "number", "choice", "yes_no", "text"))  # whose words beside the answer count


def _withstanding(
    finding: FilterResult,
    reference: str,
    response: str,
    answer: Answer,
    answer_type: AnswerType,
    policy: Policy,
) -> FilterResult:
    """The verdict, unless the response takes the answer back, or leaves open whether it is meant."""
    if finding.outcome == "failed" and answer.end >= len(response):
        return finding
    said = statement(response, answer)
    later = later_answer(said)
    if later is not None:
        other = verify(answer.text, later, answer_type, policy=policy).outcome
        if other != "passed" and not (other == "undecided" and later == answer.text):
            return undecided("taken_back")
    elif taken_back(said):
        return undecided("taken_back")
    known = answer.text if finding.layer in _READ_BY_CLAUSE else reference
    if finding.outcome == "passed" and qualified(said, known):
        return undecided("qualified")
    return finding


def judged_answer(
    reference: str | None, response: str, answer_type: AnswerType, policy: Policy
) -> Answer | None:
    """The part of a response that is judged for its answer; None where there is none."""
    if answer_type == "json":
        found = find_json(response)
        return None if found is None else Answer(found, "whole")
    answer = extract(response, policy.several_boxes)
    if answer and answer.how != "last":
        return answer
    if answer_type in ("choice", "yes_no"):
        return _ending(response)
    if answer_type == "number":
        return answer
    if answer_type == "math":
        return _mathematical(reference, response, answer)
    if reference is not None and read_quantity(fold(reference)):
        return answer
    return _entire(response.strip())  # a board, a list of words: the whole response is the answer


def _mathematical(reference: str | None, response: str, answer: Answer | None) -> Answer | None:
    """The last formula or number; where the reference is an option's letter, a short response as it is."""
    response = after_thought(response).strip()
    if reference and len(response) <= PROSE_LIMIT and read_choice(fold(final_reference(reference))):
        return _entire(response)
    return answer


def _ending(response: str) -> Answer | None:
    """The response where it is short, else its last PROSE_LIMIT characters less a torn word."""
    response = after_thought(response).strip()
    if len(response) > PROSE_LIMIT:
        response = response[-PROSE_LIMIT:].partition(" ")[2].strip()
    return _entire(response)


def _entire(text: str) -> Answer | None:
    """A text that is its own statement, with nothing around it."""
    return Answer(text, "whole", 0, sys.maxsize) if text else None
