"""Grades answers: an answer is correct, incorrect or undecided, never incorrect for lack of time.

Nearly all answers are compared in this process. Formulas that need SymPy, and tasks with a scorer of their
own, go to a checking process. A timeout, a crash or an unreadable text is undecided. Nothing that a model
wrote is evaluated in this process.

To add an answer type, write `compare_it(reference, answer, policy, timeout) -> Decision` and add a line to
COMPARISONS. Programs run against their tests instead (`filters.sandbox.python_tests`).
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from filters.extract.answer import extract
from filters.extract.sentences import expression_in_sentence, is_prose
from filters.formula.lexer import FUNCTIONS
from filters.grade.choice import compare_choices
from filters.grade.compare import compare, is_missing
from filters.grade.decision import MAX_CHARS, Decision
from filters.grade.json_answer import JSON_LIMIT, compare_json
from filters.grade.numbers import equal_numbers, parse_quantity
from filters.grade.yes_no import compare_yes_no
from filters.isolated import pool
from filters.policy import DEFAULT, Policy
from filters.result import FilterResult, undecided
from filters.text.normalize import normalize, normalize_words, strip_markup
from filters.text.qualifiers import is_changed

if TYPE_CHECKING:
    from pipeline.rows import AnswerType

TEXT_LIMIT = 20_000  # characters of a reference, and of an answer that is compared as text or scored
TIMEOUT = 1.5  # seconds
MAX_SYMPY_CHARS = 500  # of a text for math-verify
MAX_SYMPY_NESTING = 60  # brackets and powers in a text for math-verify

Compare = Callable[[str, str, Policy, float], Decision]  # the last argument is a timeout in seconds


@functools.lru_cache(maxsize=256)  # one reference is compared with many samples
def final_reference(reference: str) -> str:
    """Returns the answer in a reference, which may be a whole worked solution, as in GSM8K and MATH."""
    answer = extract(reference)
    return strip_markup(answer.text if answer and answer.how in ("boxed", "tag", "phrase") else reference)


def compare_math(reference: str, answer: str, policy: Policy, timeout: float) -> Decision:
    """Compares values, sets, functions and relations, with math-verify for what is not readable here."""
    reference = final_reference(reference)
    decision = compare(reference, answer, policy)
    if expression := _expression_in(answer, decision):
        answer = expression
        decision = compare(reference, answer, policy)
    if decision.reason.startswith("unreadable") and _suits_math_verify(reference, answer):
        return _checked("math", timeout, reference=reference, answer=answer)
    return decision


# Commands that SymPy parses and `filters.formula.parser` does not.
_SYMPY_ONLY = re.compile(
    r"\\(?:i*nt|oint|lim|partial|sum|prod|cap|setminus|backslash|mathbb|mathcal)(?![A-Za-z])|\\frac\s?\{\s?d[\s}a-z]"
)
_NESTED = re.compile(r"[({\[^]")
_COSTLY = re.compile(r"\d{50}|!\s*\)?\s*!")  # SymPy may compute for hours


def _suits_math_verify(*texts: str) -> bool:
    """Whether all texts are affordable formulas and one needs SymPy."""
    return any(map(_SYMPY_ONLY.search, texts)) and all(
        len(text) <= MAX_SYMPY_CHARS
        and len(_NESTED.findall(text)) <= MAX_SYMPY_NESTING
        and not is_prose(text)
        and not _COSTLY.search(text)
        for text in texts
    )


def compare_numbers(reference: str, answer: str, policy: Policy, _: float) -> Decision:
    reference = final_reference(reference)
    decision = _compare_numbers(reference, answer, policy)
    if expression := _expression_in(answer, decision):
        decision = _compare_numbers(reference, expression, policy)
    if decision.equal is False and decision.layer == "structure":
        return Decision(None, "structure", "ambiguous")  # "42 or 43" instead of one number
    return decision


_WHOLE = re.compile(r"-?[0-9]{1,18}")


def _compare_numbers(reference: str, answer: str, policy: Policy) -> Decision:
    """Reads 2,74 as a number, since no list can be the answer. Evaluates equations and sums."""
    if len(reference) > MAX_CHARS or len(answer) > MAX_CHARS:
        return Decision(None, "number", "refused")
    if _WHOLE.fullmatch(reference) and _WHOLE.fullmatch(answer):  # the usual case
        return Decision(int(reference) == int(answer), "number")
    expected = parse_quantity(normalize(reference), decimal_comma=True)
    if expected is None:
        return Decision(None, "number", "unreadable_reference")
    number = parse_quantity(normalize(answer), decimal_comma=True)
    equal = None if number is None else equal_numbers(expected, number, policy)
    return compare(reference, answer, policy) if equal is None else Decision(equal, "number")


_NO_RETRY = frozenset(("refused", "units_differ"))  # a part of the sentence would not decide it
_WORD = re.compile(
    r"(?<!\S)[^\W\d_]{2,}(?:['’]s)?(?![^\s:,.?!])|[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]"  # noqa: RUF001
)
_NOT_PROSE = FUNCTIONS | {"and", "or"}


def _expression_in(answer: str, decision: Decision) -> str | None:
    """Returns the expression in an answer that is a sentence, if the sentence as a whole was undecided."""
    if decision.equal is not None or decision.reason in _NO_RETRY:
        return None
    has_words = any(match[0] not in _NOT_PROSE for match in _WORD.finditer(answer))  # 2 sin x has none
    return expression_in_sentence(answer) if has_words else None


# "The capital of France is Paris" states Paris, unless it is negated.
_STATED = re.compile(r"^(?!.*\b(?:not|never)\b).*\b(?:is|was|are|were)\s(?:the\s|an?\s)?", re.DOTALL)
_OTHERWISE = re.compile(
    r"\bfalse\b|\b(?:is|was|are|were)\b.*\b(?:is|was|are|were)\b|[;,?]|\b(?:but|although|though|while|where)\b",
    re.IGNORECASE,
)

_BETWEEN_DIGITS = re.compile(r"[.,:]")


def compare_text(reference: str, answer: str, policy: Policy, _: float) -> Decision:
    """Compares words without case and punctuation. Undecided if one text contains the other."""
    words = functools.partial(normalize_words, case_sensitive=policy.case_sensitive)
    a, b = words(reference), words(answer)
    if a == b:
        return Decision(True, "text")
    if words(_STATED.sub("", answer)) == a:
        return Decision(
            None if is_changed(answer) or _OTHERWISE.search(answer) else True, "text", "ambiguous"
        )
    a, b = (f" {_BETWEEN_DIGITS.sub(' ', text)} " for text in (a, b))  # 10 and 10.0
    similar = a in b or b in a or _letters(a) == _letters(b)
    doubtful = similar or is_missing(reference) or is_prose(answer)
    return Decision(None if doubtful else False, "text", "ambiguous")


def _letters(text: str) -> list[str]:
    """Returns the sorted letters and digits without accents, the same for words in another order."""
    return sorted(c for c in unicodedata.normalize("NFD", text) if c.isalnum())


COMPARISONS: dict[str, Compare] = {
    "math": compare_math,
    "number": compare_numbers,
    "choice": lambda reference, answer, *_: compare_choices(final_reference(reference), answer),
    "yes_no": lambda reference, answer, *_: compare_yes_no(final_reference(reference), answer),
    "json": lambda reference, answer, *_: compare_json(reference, answer),
    "text": compare_text,
    "instructions": lambda reference, answer, _, timeout: _checked(
        "instructions", timeout, reference=reference, answer=answer
    ),
}
COMPARED_BY_VALUE = frozenset(COMPARISONS) - {"text", "instructions"}  # one answer has many spellings


def _by_task_scorer(reference: str | None, answer: str, metadata: str | None, timeout: float) -> Decision:
    """Applies the scorer of a reasoning-gym task. `metadata` is the task's entry as JSON."""
    if reference is not None and reference.strip() == answer.strip():
        return Decision(True, "text")
    if metadata is None:
        return Decision(None, "", "no_reference")
    # The final period may belong to the answer of a task, such as a game board.
    readings = list(dict.fromkeys((answer, strip_markup(answer))))
    return _checked("reasoning_gym", timeout, entry=json.loads(metadata), answers=readings)


def _checked(name: str, timeout: float, **arguments: object) -> Decision:
    outcome = pool.check(name, arguments, timeout)
    return Decision({"correct": True, "incorrect": False}.get(outcome), "worker", outcome)


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
        return _result(_by_task_scorer(reference, answer, metadata, timeout))
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
