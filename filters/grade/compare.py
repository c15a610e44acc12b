r"""Compares two mathematical answers in layers, the cheap and certain ones first.

    text       the same spelling after normalization
    choice     the letter of an option
    number     two plain numbers, read exactly, with percent signs and units
    structure  lists, tuples, sets, intervals, relations: their parts, compared by the same layers
    formula    two trees: exact if rational, else by values at points

This runs in the caller's process on untrusted text. Lengths, nesting, digits and the number of comparisons
are bounded; the reason is "refused" beyond these bounds. `filters.grade.grader` may pass answers that are not
readable here to math-verify.
"""

from __future__ import annotations

import re

from filters.formula.tree import TooLarge
from filters.grade.choice import names_choice, parse_choice
from filters.grade.compare_structure import Comparison, strip_spaces
from filters.grade.decision import MAX_CHARS, Decision, Undecided
from filters.grade.lookalikes import are_lookalikes
from filters.grade.numbers import equal_numbers, parse_quantity
from filters.policy import Policy
from filters.text.normalize import normalize, normalize_words

_PLAIN = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)
# Marks for a missing value in tables, and words that may mean the same.
_MISSING = frozenset(("nan", "null", "na", "n/a", "n.a", "<na>", "#n/a", "nil", "-", "--", "?", "missing"))
_MISSING_WORDS = frozenset(("none", "unknown", "undefined", "not available", "not applicable"))


def is_missing(reference: str, *, words: bool = True) -> bool:
    """Whether a reference marks a missing value. `words`: "none" and "unknown" count too."""
    text = reference.strip(" \t\n.$").replace("—", "-").replace("–", "-").casefold()  # noqa: RUF001
    return text in _MISSING or (words and text in _MISSING_WORDS)


def compare(reference: str, answer: str, policy: Policy) -> Decision:
    """Compares a reference with an answer, both without surrounding text."""
    if _PLAIN.fullmatch(reference) and _PLAIN.fullmatch(answer):
        return Decision(reference == answer, "number")
    if len(reference) > MAX_CHARS or len(answer) > MAX_CHARS:
        return Decision(None, "text", "refused")
    written = reference, answer
    reference, answer = normalize(reference), normalize(answer)
    if not reference or is_missing(reference, words=False):
        return Decision(None, "text", "unreadable_reference")
    if not answer:
        return Decision(None, "text", "no_answer")
    if strip_spaces(reference) == strip_spaces(answer):
        return Decision(True, "text")
    if (choice := parse_choice(reference)) and (named := names_choice(choice, answer)) is not None:
        return Decision(named, "choice")
    if _is_words(reference) or _is_words(answer):
        return _compare_words(reference, answer, policy)
    a, b = parse_quantity(reference), parse_quantity(answer)
    if a and b and (equal := equal_numbers(a, b, policy)) is not None:
        return Decision(equal, "number")
    comparison = Comparison(policy)
    try:
        equal = comparison.equal(reference, answer)
        if are_lookalikes(written, (reference, answer), equal):
            return Decision(None, comparison.layer, "ambiguous")
        return Decision(equal, comparison.layer)
    except (TooLarge, RecursionError):
        return Decision(None, comparison.layer, "refused")
    except Undecided as e:
        spelling = str.casefold if _FORMULA.search(reference + answer) else normalize_words
        is_text = _WORD.search(reference) and not _SYMBOL.search(reference + answer)
        is_text = is_text and str(e) != "units_differ"  # the case of mHz matters
        if is_text and strip_spaces(spelling(reference)) == strip_spaces(spelling(answer)):
            return Decision(True, "text")
        return Decision(None, comparison.layer, str(e))


_WORD = re.compile(r"[^\W\d_]{3,}")
_FORMULA = re.compile(r"[\d^/_=+()]|[!'](?!s\b)")  # here signs and brackets have a meaning
_SYMBOL = re.compile(r"[\\^_=<>≤≥]")  # here the case has a meaning, too: r and R, m and M
_LETTERS = re.compile(r"[^\W\d_]{3,}(?:[\s'’.!?-]+[^\W\d_]+)*[.!?]?|[^\W\d_]+(?:\s[^\W\d_]{3,})+")  # noqa: RUF001
_SHORT = frozenset(("no", "ja", "si", "sí"))  # any other two letters are a product
_NOT_WORDS = frozenset(("inf", "infinity"))


def _is_words(text: str) -> bool:
    """Whether a text has letters only, such as "Paris" or "no solution", though "abc" may be a product."""
    folded = text.casefold()
    return folded in _SHORT or (bool(_LETTERS.fullmatch(text)) and folded not in _NOT_WORDS)


def _compare_words(reference: str, answer: str, policy: Policy) -> Decision:
    a, b = (normalize_words(text, case_sensitive=policy.case_sensitive) for text in (reference, answer))
    if a == b:
        return Decision(True, "text")
    if is_missing(reference):
        return Decision(None, "text", "unreadable_reference")
    if _is_words(reference) and _is_words(answer):
        similar = sorted(a) == sorted(b) or f" {a} " in f" {b} " or f" {b} " in f" {a} "
        return Decision(None if similar else False, "text", "ambiguous")
    if _is_words(reference):
        return Decision(None, "text", "unreadable_reference" if _WORD.search(answer) else "ambiguous")
    return Decision(None, "text", "unreadable_answer")
