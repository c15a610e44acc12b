r"""Do two answers say the same? In layers, the cheap and certain first; yes, no, or why that cannot be seen.

    text       the same spelling after folding
    choice     the letter of an option
    number     two plain numbers, read exactly, with percent signs and units
    structure  lists, tuples, sets, intervals, relations: their parts, compared by the same layers
    formula    two trees: exact where rational, else by values at points

Everything here runs in the caller's process on text that nobody vouches for: lengths, nesting, digits and the
number of comparisons are bounded, and what is beyond is "refused". What two texts leave open because one of
them is not read is for `filters.grade.grader` to ask the checking process about.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from filters.formula.lexer import TooLarge
from filters.grade.choice import read_choice, same_choice
from filters.grade.formulas import Open
from filters.grade.numbers import read_quantity, same_number
from filters.grade.structural import Comparison, strip_spaces
from filters.policy import Policy
from filters.text.normalize import fold, normalize_text

LENGTH = 2000  # characters of an answer that is compared


class Decision(NamedTuple):
    same: bool | None
    layer: str
    reason: str = ""  # why it cannot be seen


_PLAIN = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)
# How tables say that an answer is missing; and words for that which may as well be one.
_MISSING = frozenset(("nan", "null", "na", "n/a", "n.a", "<na>", "#n/a", "nil", "-", "--", "?", "missing"))
_NOTHING = frozenset(("none", "unknown", "undefined", "not available", "not applicable"))


def is_missing(reference: str, *, words: bool = True) -> bool:
    """Whether a reference says that there is none; `words`: or may say so, as "none" and "unknown" do."""
    text = reference.strip(" \t\n.$").replace("—", "-").replace("–", "-").casefold()  # noqa: RUF001
    return text in _MISSING or (words and text in _NOTHING)


def compare(gold: str, given: str, policy: Policy) -> Decision:
    """Compare a reference with an answer, both bare."""
    if _PLAIN.fullmatch(gold) and _PLAIN.fullmatch(given):
        return Decision(gold == given, "number")
    if len(gold) > LENGTH or len(given) > LENGTH:
        return Decision(None, "text", "refused")
    gold, given = fold(gold), fold(given)
    if not gold or is_missing(gold, words=False):
        return Decision(None, "text", "unreadable_reference")
    if not given:
        return Decision(None, "text", "no_answer")
    if strip_spaces(gold) == strip_spaces(given):
        return Decision(True, "text")
    if (choice := read_choice(gold)) and (named := same_choice(choice, given)) is not None:
        return Decision(named, "choice")
    if _is_word(gold) or _is_word(given):
        return _compare_words(gold, given, policy)
    a, b = read_quantity(gold), read_quantity(given)
    if a and b and (equal := same_number(a, b, policy)) is not None:
        return Decision(equal, "number")
    comparison = Comparison(policy)
    try:
        return Decision(comparison.same(gold, given), comparison.layer)
    except (TooLarge, RecursionError):
        return Decision(None, comparison.layer, "refused")
    except Open as e:
        spelled = str.casefold if _FORMULA.search(gold + given) else normalize_text
        if _WORD.search(gold) and strip_spaces(spelled(gold)) == strip_spaces(spelled(given)):
            return Decision(True, "text")
        return Decision(None, comparison.layer, str(e))


_WORD = re.compile(r"[^\W\d_]{3,}")
_FORMULA = re.compile(r"[\d^/_=+]|[!'](?!s\b)")  # where signs and brackets have a meaning
_LETTERS = re.compile(r"[^\W\d_]{3,}(?:[\s'’.!?-]+[^\W\d_]+)*[.!?]?|[^\W\d_]+(?:\s[^\W\d_]{3,})+")  # noqa: RUF001
_SHORT = frozenset(("no", "ja", "si", "sí"))  # else two letters are a product
_NOT_WORDS = frozenset(("inf", "infinity"))


def _is_word(text: str) -> bool:
    """Letters only, as in "Paris" or "no solution": a text, though "abc" might be a product."""
    folded = text.casefold()
    return folded in _SHORT or (bool(_LETTERS.fullmatch(text)) and folded not in _NOT_WORDS)


def _compare_words(gold: str, given: str, policy: Policy) -> Decision:
    a, b = (normalize_text(text, case_sensitive=policy.case_sensitive) for text in (gold, given))
    if a == b:
        return Decision(True, "text")
    if is_missing(gold):
        return Decision(None, "text", "unreadable_reference")
    if _is_word(gold) and _is_word(given):
        alike = sorted(a) == sorted(b) or f" {a} " in f" {b} " or f" {b} " in f" {a} "
        return Decision(None if alike else False, "text", "ambiguous")
    if _is_word(gold):
        return Decision(None, "text", "unreadable_reference" if _WORD.search(given) else "ambiguous")
    return Decision(None, "text", "unreadable_answer")
