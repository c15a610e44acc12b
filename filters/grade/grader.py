"""Is an answer the reference's equal? Three answers, never two: correct, wrong, cannot tell.

In layers, the cheap and certain first: `filters.grade.compare` reads both in this process and decides nearly
all; what it does not read, and only if it looks like mathematics, goes to math-verify in a checking process,
as does what a task's own scorer must judge (`filters.isolated.pool`). A time-out, a crash or a text that
nobody can read is "cannot tell". Nothing of the model's is evaluated in this process.

To add an answer type: a function (reference, answer, timeout, policy) -> Decision, and its line in _COMPARED
at the end. A program is no such answer: it is run against its tests (`filters.sandbox.python_tests`).
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from filters.extract.answer import extract
from filters.extract.sentences import in_prose, is_prose
from filters.formula.lexer import FUNCTIONS
from filters.grade import answer_types
from filters.grade.compare import Decision, compare, is_missing
from filters.grade.json_answer import JSON_LIMIT
from filters.isolated import pool
from filters.policy import DEFAULT, Policy
from filters.result import FilterResult, undecided
from filters.text.normalize import normalize_text, tidy
from filters.text.qualifiers import changed

if TYPE_CHECKING:
    from pipeline.rows import AnswerType

TEXT_LIMIT = 20_000  # characters of an answer to compare as text, or to score; and of a reference
TIMEOUT = 1.5  # seconds


def verify(
    reference: str | None,
    answer: str,
    answer_type: AnswerType,
    metadata: str | None = None,
    *,
    timeout: float = TIMEOUT,
    policy: Policy = DEFAULT,
) -> FilterResult:
    """Compare an answer with the reference, in at most `timeout` seconds and the first start of a process."""
    if max(len(answer), len(reference or "")) > (JSON_LIMIT if answer_type == "json" else TEXT_LIMIT):
        return _finding(Decision(None, "text", "refused"))
    if answer_type == "reasoning_gym":
        return _finding(_by_task(reference, answer, metadata, timeout))
    if answer_type == "free":  # a judge model says (pipeline.filter.judge_verdict); no program can
        return undecided("unfiltered" if reference else "no_reference")
    if not reference or not reference.strip():
        return undecided("no_reference")
    return _finding(_COMPARED[answer_type](reference, answer, timeout, policy))


@functools.lru_cache(maxsize=256)  # one reference is compared with many samples
def final_reference(reference: str) -> str:
    """The answer in a reference, which may be a whole worked solution, as in GSM8K and MATH."""
    answer = extract(reference)
    return tidy(answer.text if answer and answer.how in ("boxed", "tag", "phrase") else reference)


# "The capital of France is Paris" says Paris; not where it is denied.
_SAID = re.compile(r"^(?!.*\b(?:not|never)\b).*\b(?:is|was|are|were)\s(?:the\s|an?\s)?", re.DOTALL)


_OTHERWISE = re.compile(
    r"\bfalse\b|\b(?:is|was|are|were)\b.*\b(?:is|was|are|were)\b|[;,?]|\b(?:but|although|though|while|where)\b",
    re.IGNORECASE,
)


def _same_text(reference: str, answer: str, timeout: float, policy: Policy) -> Decision:
    """The same words, whatever their case and punctuation; cannot tell where one text holds the other."""
    gold, given = (normalize_text(text, case_sensitive=policy.case_sensitive) for text in (reference, answer))
    if gold == given:
        return Decision(True, "text")
    if normalize_text(_SAID.sub("", answer), case_sensitive=policy.case_sensitive) == gold:
        return Decision(None if changed(answer) or _OTHERWISE.search(answer) else True, "text", "ambiguous")
    doubt = (
        is_missing(reference)
        or f" {gold} " in f" {given} "
        or f" {given} " in f" {gold} "
        or is_prose(answer)
    )
    return Decision(None if doubt or _letters(gold) == _letters(given) else False, "text", "ambiguous")


def _letters(text: str) -> list[str]:
    """The letters and digits in alphabetical order, without accents: the same words in another order."""
    return sorted(c for c in unicodedata.normalize("NFD", text) if c.isalnum())


def _same_math(reference: str, answer: str, timeout: float, policy: Policy) -> Decision:
    """The same value, set, function or relation."""
    reference = final_reference(reference)
    decision = compare(reference, answer, policy)
    if inner := _inside(answer, decision):
        answer = inner
        decision = compare(reference, answer, policy)
    if decision.same is None and decision.reason.startswith("unreadable") and _is_formula(reference, answer):
        return _from_outcome(pool.check("math", {"reference": reference, "answer": answer}, timeout))
    return decision


def _inside(answer: str, decision: Decision) -> str | None:
    """What a sentence is about, where the sentence as it stands could not be judged."""
    if decision.same is not None or decision.reason in _SETTLED or not _has_words(answer):
        return None
    return in_prose(answer)


def _same_number(reference: str, answer: str, timeout: float, policy: Policy) -> Decision:
    """The same number, read in this process."""
    reference = final_reference(reference)
    decision = answer_types.same_numbers(reference, answer, policy)
    if inner := _inside(answer, decision):
        decision = answer_types.same_numbers(reference, inner, policy)
    if decision.same is False and decision.layer == "structure":
        return Decision(None, "structure", "ambiguous")  # 42 or 43, where one number is asked for
    return decision


def _same_choice(reference: str, answer: str, timeout: float, policy: Policy) -> Decision:
    """The same option's letter."""
    return answer_types.same_choices(final_reference(reference), answer)


def _same_truth(reference: str, answer: str, timeout: float, policy: Policy) -> Decision:
    """Both yes or both no, in whatever language."""
    return answer_types.same_truth(final_reference(reference), answer)


def _same_json(reference: str, answer: str, timeout: float, policy: Policy) -> Decision:
    """The same data."""
    return answer_types.same_json(reference, answer)


_SETTLED = frozenset(("refused", "units_differ"))  # nothing inside a sentence would decide it
_WORD = re.compile(
    r"(?<!\S)[^\W\d_]{2,}(?:['’]s)?(?![^\s:,.?!])|[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]"  # noqa: RUF001
)


_NOT_PROSE = FUNCTIONS | {"and", "or"}


def _has_words(text: str) -> bool:
    """Words that stand by themselves and are no functions: 2 sin x has none, code has none."""
    return any(match[0] not in _NOT_PROSE for match in _WORD.finditer(text))


# What SymPy reads and `filters.formula.parser` does not, and what it would take hours over.
_KNOWN = re.compile(
    r"\\(?:i*nt|oint|lim|partial|sum|prod|cap|setminus|backslash|mathbb|mathcal)(?![A-Za-z])|\\frac\s?\{\s?d[\s}a-z]"
)
_NESTED = re.compile(r"[({\[^]")
NESTED_LIMIT = 60  # brackets and powers in a text that SymPy is given
WORKER_LIMIT = 500  # characters


def _is_formula(*texts: str) -> bool:
    return all(
        len(text) <= WORKER_LIMIT
        and len(_NESTED.findall(text)) <= NESTED_LIMIT
        and not is_prose(text)
        and not re.search(r"\d{50}|!\s*\)?\s*!", text)
        for text in texts
    ) and any(map(_KNOWN.search, texts))


def _by_task(reference: str | None, answer: str, metadata: str | None, timeout: float) -> Decision:
    """As the task's own scorer says."""
    if reference is not None and reference.strip() == answer.strip():
        return Decision(True, "text")
    if metadata is None:
        return Decision(None, "", "no_reference")
    readings = list(dict.fromkeys((answer, tidy(answer))))  # a board may end in dots that a sentence may not
    arguments = {"entry": json.loads(metadata), "answers": readings}
    return _from_outcome(pool.check("reasoning_gym", arguments, timeout))


def _finding(decision: Decision) -> FilterResult:
    if decision.same is None:
        return FilterResult("undecided", decision.reason, layer=decision.layer)
    return (
        FilterResult("passed", "", layer=decision.layer)
        if decision.same
        else FilterResult("failed", "wrong", layer=decision.layer)
    )


def _from_outcome(outcome: str) -> Decision:
    same = {"correct": True, "wrong": False}.get(outcome)
    return Decision(same, "worker", outcome)


_COMPARED: dict[str, Callable[[str, str, float, Policy], Decision]] = {
    "math": _same_math,
    "number": _same_number,
    "choice": _same_choice,
    "yes_no": _same_truth,
    "json": _same_json,
    "text": _same_text,
}

BY_VALUE = frozenset(("math", "number", "choice", "yes_no", "json"))  # one answer has many spellings
