"""Compares yes-or-no answers, in nineteen languages."""

from __future__ import annotations

import re
import unicodedata

from filters.grade.choice import without_reasons
from filters.grade.decision import MAX_CHARS, Decision
from filters.text.normalize import normalize
from filters.text.qualifiers import CONDITION, is_doubted

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
_TRUTH = dict.fromkeys(_YES_WORDS.split(), True) | dict.fromkeys(_NO_WORDS.split(), False)
_CLAUSE = re.compile(r"([.,;:!?\n。，！？、；：—–؟،।])")  # noqa: RUF001
_NEGATION = re.compile(
    r"\b(?:not|never|neither|nor|cannot|nicht|kein\w*|pas|ne|não|niet|inte|değil|bukan|không|не)\b|n[’']t\b"  # noqa: RUF001
)
# Words that may directly precede the answer, in languages written in ASCII.
_LEADS_IN = re.compile(
    r"(?:\b(?:is|are|be|answer|so|thus|therefore|hence|then|indeed|clearly|definitely|certainly|always|also|obviously|actually|rather|but|wait"
    r"|ist|est|es|er|adalah|to|jest|klar|daher|also|donc)|['’]s)\Z"  # noqa: RUF001
)
_DOUBT = re.compile(
    r"\b(?:if|whether|or|may|might|maybe|perhaps|assum\w+|suppos\w+|would be|unclear|unknown|both"
    r"|negation|converse|inverse|fails? to|too good)\b"
)


def compare_yes_no(reference: str, answer: str) -> Decision:
    expected = _TRUTH.get(_bare(reference))
    if expected is None:
        return Decision(None, "yes_no", "unreadable_reference")
    if len(answer) > MAX_CHARS:
        return Decision(None, "yes_no", "refused")
    stated = set(_stated_truths(answer))
    if len(stated) != 1:
        return Decision(None, "yes_no", "ambiguous" if stated else "unreadable_answer")
    return Decision(stated == {expected}, "yes_no")


def _stated_truths(answer: str) -> list[bool]:
    """Returns the truth of each clause that is a word for yes or no, or ends on one: "the claim is false"."""
    sentences = re.split(r"(?<=[.!?\n])", without_reasons(answer))
    unconditional = "".join(sentence for sentence in sentences if not CONDITION.search(sentence))
    pieces = [*_CLAUSE.split(unconditional), ""]
    stated, introduction = [], ""
    for clause, mark in zip(pieces[::2], pieces[1::2], strict=True):
        *before, last = _bare(clause).split() or [""]
        if mark in ("?", "？", "؟"):  # noqa: RUF001
            continue
        truth = _TRUTH.get(last)
        if (
            truth is not None
            and not (before and _is_changed_by(before, last))
            and not is_doubted(introduction)
        ):
            stated.append(truth)
        introduction = clause if mark == ":" else ""  # one might say: yes
    return stated


def _is_changed_by(before: list[str], last: str) -> bool:
    """Whether the words before the last one change it: not true, if true, true or false, of no."""
    text = " ".join(before)
    if text.isascii() and last.isascii() and not _LEADS_IN.search(text):
        return True
    return bool(
        _NEGATION.search(text)
        or _DOUBT.search(text)
        or is_doubted(text)
        or any(word in _TRUTH for word in before)
    )


def _bare(text: str) -> str:
    normal = normalize(unicodedata.normalize("NFC", text))
    return re.sub(r"[\"'*_`()\[\]{}$.!]+", " ", normal).strip().casefold()
