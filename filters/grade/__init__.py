r"""Grades answers: finds the final answer in a response and compares it with a reference.

    >>> from filters.grade import parse, verify
    >>> answer = parse(r"Half of them, so the answer is \boxed{\frac{2}{4}}.")
    >>> answer
    '\\frac{2}{4}'
    >>> verify("0.5", answer)
    Grade(outcome='correct', reason='', layer='number')
    >>> verify(r"\sqrt{8}", r"2\sqrt{3}").outcome
    'incorrect'
    >>> verify("5 apples", "5 pears")
    Grade(outcome='undecided', reason='units_differ', layer='number')

Importing this package loads neither `pipeline` nor SymPy. Nothing of an answer is ever executed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from filters.extract.answer import extract
from filters.grade.grader import TIMEOUT, grade_answer
from filters.grade.json_answer import find_json
from filters.policy import DEFAULT, Policy

__all__ = ["AnswerType", "Grade", "Policy", "parse", "verify"]

AnswerType = Literal["math", "number", "choice", "yes_no", "json", "text"]
Outcome = Literal["correct", "incorrect", "undecided"]
_OUTCOMES: dict[str, Outcome] = {"passed": "correct", "failed": "incorrect", "undecided": "undecided"}


@dataclass(frozen=True)
class Grade:
    """The result of `verify`. It is true only if the answer is correct."""

    outcome: Outcome
    reason: str = ""
    """Why the outcome is undecided, as a short code: "timeout", "ambiguous", "unreadable_answer" ..."""
    layer: str = ""
    """The comparison that decided: "text", "choice", "number", "structure", "formula" or "worker"."""

    def __bool__(self) -> bool:
        return self.outcome == "correct"


def parse(response: str, answer_type: AnswerType = "math") -> str | None:
    r"""Returns the final answer of a response, None if it has none.

    Prefers the last box, answer tag or phrase such as "the answer is". Without one, the answer is a short
    response as a whole, or else the last formula or number. Text up to `</think>` does not count.

        >>> parse("<think>7? No, 8.</think>\nThe answer is 8.")
        '8'
    """
    if answer_type == "json":
        return find_json(response)
    answer = extract(response)
    return answer.text if answer else None


def verify(
    reference: str,
    answer: str | None,
    answer_type: AnswerType = "math",
    *,
    timeout: float = TIMEOUT,
    policy: Policy = DEFAULT,
) -> Grade:
    r"""Compares an answer with the reference, which may be a worked solution that ends on its answer.

    The outcome is undecided if the answer is None, ambiguous or unreadable, and after `timeout` seconds. The
    first formula that needs SymPy also takes the time to start a process. `policy` decides what mathematics
    leaves open, such as rounding and units.

        >>> verify("1/3", "0.33333").outcome, verify("1/3", "0.33").outcome
        ('correct', 'incorrect')
        >>> verify("B", "It must be (B).", "choice").outcome
        'correct'
    """
    if answer is None:
        return Grade("undecided", "no_answer")
    result = grade_answer(reference, answer, answer_type, timeout=timeout, policy=policy)
    reason = result.reason if result.outcome == "undecided" else ""
    return Grade(_OUTCOMES[result.outcome], reason, result.layer)
