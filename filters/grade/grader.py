"""Grades answers: an answer is correct, incorrect or undecided, never incorrect for lack of time.

`filters.grade.answer_types` compares nearly all answers in this process. Formulas that need SymPy, and tasks
with a scorer of their own, go to a checking process (`filters.grade.external`). A timeout, a crash or an
unreadable text is undecided. Nothing that a model wrote is evaluated in this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filters.grade.answer_types import COMPARED_BY_VALUE as COMPARED_BY_VALUE
from filters.grade.answer_types import COMPARISONS
from filters.grade.answer_types import final_reference as final_reference
from filters.grade.decision import Decision
from filters.grade.external import by_task_scorer
from filters.grade.json_answer import JSON_LIMIT
from filters.policy import DEFAULT, Policy
from filters.result import FilterResult, undecided

if TYPE_CHECKING:
    from pipeline.rows import AnswerType

TEXT_LIMIT = 20_000  # characters of a reference, and of an answer that is compared as text or scored
TIMEOUT = 1.5  # seconds


def grade_answer(
    reference: str | None,
    answer: str,
    answer_type: AnswerType,
    metadata: str | None = None,
    *,
    timeout: float = TIMEOUT,
    policy: Policy = DEFAULT,
) -> FilterResult:
    """Compares an answer with the reference.

    Takes at most `timeout` seconds, and once the time to start a checking process. `metadata` is the entry of
    a reasoning-gym task.
    """
    if max(len(answer), len(reference or "")) > (JSON_LIMIT if answer_type == "json" else TEXT_LIMIT):
        return _result(Decision(None, "text", "refused"))
    if answer_type == "reasoning_gym":
        return _result(by_task_scorer(reference, answer, metadata, timeout))
    if answer_type == "free":  # only an LLM judge can grade it (pipeline.filter.judge_verdict)
        return undecided("unfiltered" if reference else "no_reference")
    if not reference or not reference.strip():
        return undecided("no_reference")
    return _result(COMPARISONS[answer_type](reference, answer, policy, timeout))


def _result(decision: Decision) -> FilterResult:
    if decision.equal is None:
        return FilterResult("undecided", decision.reason, layer=decision.layer)
    if decision.equal:
        return FilterResult("passed", "", layer=decision.layer)
    return FilterResult("failed", "incorrect", layer=decision.layer)
