"""Decisions made in a checking process: by math-verify, and by the scorers of reasoning-gym tasks."""

from __future__ import annotations

import json
import re

from filters.extract.sentences import is_prose
from filters.grade.decision import Decision
from filters.isolated import pool
from filters.text.normalize import strip_markup

MAX_CHARS = 500  # of a text for math-verify
MAX_NESTING = 60  # brackets and powers in a text for math-verify

# Commands that SymPy parses and `filters.formula.parser` does not.
_SYMPY_ONLY = re.compile(
    r"\\(?:i*nt|oint|lim|partial|sum|prod|cap|setminus|backslash|mathbb|mathcal)(?![A-Za-z])|\\frac\s?\{\s?d[\s}a-z]"
)
_NESTED = re.compile(r"[({\[^]")
_COSTLY = re.compile(r"\d{50}|!\s*\)?\s*!")  # SymPy may compute for hours


def suits_math_verify(*texts: str) -> bool:
    """Whether all texts are affordable formulas and one needs SymPy."""
    return any(map(_SYMPY_ONLY.search, texts)) and all(
        len(text) <= MAX_CHARS
        and len(_NESTED.findall(text)) <= MAX_NESTING
        and not is_prose(text)
        and not _COSTLY.search(text)
        for text in texts
    )


def by_math_verify(reference: str, answer: str, timeout: float) -> Decision:
    return _check("math", timeout, reference=reference, answer=answer)


def by_task_scorer(reference: str | None, answer: str, metadata: str | None, timeout: float) -> Decision:
    """Applies the scorer of a reasoning-gym task. `metadata` is the task's entry as JSON."""
    if reference is not None and reference.strip() == answer.strip():
        return Decision(True, "text")
    if metadata is None:
        return Decision(None, "", "no_reference")
    # The final period may belong to the answer of a task, such as a game board.
    readings = list(dict.fromkeys((answer, strip_markup(answer))))
    return _check("reasoning_gym", timeout, entry=json.loads(metadata), answers=readings)


def _check(name: str, timeout: float, **arguments: object) -> Decision:
    outcome = pool.check(name, arguments, timeout)
    return Decision({"correct": True, "incorrect": False}.get(outcome), "worker", outcome)
