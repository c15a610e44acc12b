"""Answers of a known kind, compared as what they are: a number, an option's letter, yes or no, JSON data.

Each function is given the reference and the answer as texts and says yes, no, or why that cannot be seen.
What they share with mathematics (units, percent, rounding) is in `filters.grade.numbers`; letters are in
`filters.grade.choice`, JSON is in `filters.grade.json_answer`. Leaves out mathematics and texts
(`filters.grade.compare`) and programs (`filters.sandbox.python_tests`).
"""

from __future__ import annotations

import re
import unicodedata

from filters.grade.choice import CHOICE, named_choices, read_choice, without_reasons
from filters.grade.compare import LENGTH, Decision, compare
from filters.grade.json_answer import same_json as same_json
from filters.grade.numbers import read_quantity, same_number
from filters.policy import Policy
from filters.text.normalize import fold
from filters.text.qualifiers import CONDITION, doubted

_WHOLE = re.compile(r"-?[0-9]{1,18}")


def same_numbers(reference: str, answer: str, policy: Policy) -> Decision:
    """The same number; 2,74 is one, as no list can be the answer. An equation or a sum is worked out."""
    if len(reference) > LENGTH or len(answer) > LENGTH:
        return Decision(None, "number", "refused")
    if _WHOLE.fullmatch(reference) and _WHOLE.fullmatch(answer):  # nearly all of them
        return Decision(int(reference) == int(answer), "number")
    gold = read_quantity(fold(reference), decimal_comma=True)
    if gold is None:
        return Decision(None, "number", "unreadable_reference")
    given = read_quantity(fold(answer), decimal_comma=True)
    same = None if given is None else same_number(gold, given, policy)
    return compare(reference, answer, policy) if same is None else Decision(same, "number")


def same_choices(reference: str, answer: str) -> Decision:
    """The letter of the same option, A to J; or, where the reference gives it, the option's text."""
    gold = read_choice(fold(reference.strip()), CHOICE) or read_choice(reference.strip().upper(), CHOICE)
    if gold is None:
        return Decision(None, "choice", "unreadable_reference")
    if len(answer) > LENGTH:
        return Decision(None, "choice", "refused")
    given = fold(answer)
    if gold.text and given.casefold() == gold.text.casefold():
        return Decision(True, "text")
    named = named_choices(given.upper() if len(given) == 1 else without_reasons(given), CHOICE)
    if not named:
        return Decision(None, "choice", "unreadable_answer")
    return Decision(named == {gold.letter}, "choice") if len(named) == 1 else _ambiguous("choice")


# English, German, French, Spanish, Italian, Portuguese, Dutch, Polish, Swedish, Turkish, Indonesian,
# Vietnamese, Russian, Ukrainian, Chinese, Japanese, Korean, Hindi, Arabic.
_YES_WORDS = """
yes true correct ja wahr richtig oui vrai sí si verdadero cierto sì vero sim verdadeiro waar tak prawda sant
evet doğru ya benar có đúng да верно правда так правильно 是 是的 对 對 对的 正确 正確 真
はい 正しい 예 네 참 맞습니다 हाँ हां सही सत्य نعم صحيح
"""
_NO_WORDS = """
no false incorrect nein falsch non faux falso não nao nee onwaar nie fałsz nej falskt hayır yanlış tidak salah
không sai нет неверно ложь неправда ні неправильно 否 不 不是 不对 不對 错 錯 错误 錯誤 假
いいえ 偽 아니요 아니오 거짓 नहीं गलत असत्य لا خطأ
"""  # noqa: RUF001
_YES, _NO = frozenset(_YES_WORDS.split()), frozenset(_NO_WORDS.split())
_CLAUSE = re.compile(r"([.,;:!?\n。，！？、；：—–؟،।])")  # noqa: RUF001
_NEGATION = re.compile(
    r"\b(?:not|never|neither|nor|cannot|nicht|kein\w*|pas|ne|não|niet|inte|değil|bukan|không|не)\b|n[’']t\b"  # noqa: RUF001
)
# What directly precedes the word that is the answer, in the languages that are written in ASCII.
_SAYS = re.compile(
    r"(?:\b(?:is|are|be|answer|so|thus|therefore|hence|then|indeed|clearly|definitely|certainly|always|also|obviously|actually|rather|but|wait"
    r"|ist|est|es|er|adalah|to|jest|klar|daher|also|donc)|['’]s)\Z"  # noqa: RUF001
)
_DOUBT = re.compile(
    r"\b(?:if|whether|or|may|might|maybe|perhaps|assum\w+|suppos\w+|would be|unclear|unknown|both)\b"
)


def same_truth(reference: str, answer: str) -> Decision:
    """Both yes (or true), or both no (or false), in any of the languages above."""
    gold = _truth(_bare(reference))
    if gold is None:
        return Decision(None, "yes_no", "unreadable_reference")
    if len(answer) > LENGTH:
        return Decision(None, "yes_no", "refused")
    said = _truths(answer)
    if not said:
        return Decision(None, "yes_no", "unreadable_answer")
    return Decision(said[-1] == gold, "yes_no") if len(set(said)) == 1 else _ambiguous("yes_no")


def _truths(answer: str) -> list[bool]:
    """What each clause says that is a word for yes or no, or ends on one, as in "the claim is false"."""
    sentences = re.split(r"(?<=[.!?\n])", without_reasons(answer))
    firm = "".join(sentence for sentence in sentences if not CONDITION.search(sentence))
    pieces = [*_CLAUSE.split(firm), ""]
    said = []
    for clause, mark in zip(pieces[::2], pieces[1::2], strict=True):
        words = _bare(clause).split()
        alone = len(words) == 1
        if not words or mark in ("?", "？", "؟"):  # noqa: RUF001
            continue
        truth = _truth(words[-1])
        if truth is not None and (alone or not _wavers(words[:-1], words[-1])):
            said.append(truth)
    return said


def _wavers(before: list[str], last: str) -> bool:
    """Whether the words before the last make it another: not true, if true, true or false, of no."""
    text = " ".join(before)
    if text.isascii() and last.isascii() and not _SAYS.search(text):
        return True
    return bool(
        _NEGATION.search(text)
        or _DOUBT.search(text)
        or doubted(text)
        or any(_truth(w) is not None for w in before)
    )


def _truth(word: str) -> bool | None:
    return True if word in _YES else False if word in _NO else None


def _bare(text: str) -> str:
    return re.sub(r"[\"'*_`()\[\]{}$.!]+", " ", fold(unicodedata.normalize("NFC", text))).strip().casefold()


def _ambiguous(layer: str) -> Decision:
    return Decision(None, layer, "ambiguous")
