"""Collects every answer that a response states, and tells answers from placeholders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING

from filters.extract.answer import PHRASE_LIMIT, after_reasoning, extract, in_tags
from filters.extract.phrases import Announcement, announcements
from filters.extract.sentences import is_prose
from filters.text.normalize import normalize, normalize_words, strip_markup

if TYPE_CHECKING:
    from pipeline.rows import AnswerType

MAX_PASSES = 4  # over the text, from its end; each finds a few announcements of every word
MAX_BOXES = 500  # the last ones of a response
MAX_CHARS = 300  # of a text that may say that there is no answer

_EMPTY_BOX = re.compile(r"\\+[a-z]*box(?:ed)?\s*\{\s*\}")
_BLANK = re.compile(
    r"(?:[?._…\s□☐$]|\\(?:[lc]?dots\w?|square|[a-z]*space|q?quad|underline)\b|\\?[,;!]|[{}](?!\Z))*"
)
_BRACKETS = re.compile(r"[\[\]<>{}*]+")
_NO_ANSWER = re.compile(
    r"""(?:(?:it|this|that|we|i|is|are|still|currently|simply|completely|unfortunately|yet|do|does)\s)*(?:
    unknown|unclear|undetermined|uncertain|inconclusive|unanswerable|undeterminable|to\sbe\s(?:determined|filled\sin)
    |not\s(?:yet\s)?(?:known|clear|given|provided|available|determinable|sure)
    |(?:insufficient|not\senough|not\ssufficient)\s(?:information|data)
    |(?:can\s?not|can\st|could\snot|couldn\st|impossible\sto|unable\sto|don\st|not)\s(?:be\s)?
     (?:uniquely\s|exactly\s)?(?:determined?|known?|found|find|calculated?|computed?|answered?|tell|told|said|say|solved?)
    |left\s(?:as|to|for)\s(?:an?\s|the\s)?(?:exercise|reader|later)
    |n/a|tbd|todo|no\sanswer|placeholder
    |unbekannt|inconnue?|desconocid[oa]|desconhecid[oa]|sconosciut[oa]|неизвестно|未知|不明|无法确定|不确定|알\s수\s없음
    )(?:\s(?:from|without|with|at|to|for|as|until|here|yet|because|since|given|based|by|in|due|of|on|whether)\b.*)?""",
    re.VERBOSE,
)
_PLACEHOLDER = re.compile(
    r"(?:(?:your|my|insert|put|write|enter|state|the|a|final|numerical|correct)\s)*answer(?:\s(?:goes\s)?here)?"
    r"|(?:your|insert|put|write|enter)\s(?:\w+\s)?(?:result|value|solution|number|response|expression|choice|letter)"
    r"(?:\s(?:goes\s)?here)?"
)
# Somebody else's answer, or a conditional one: not the response's own statement.
_NOT_ITS_OWN = re.compile(
    r"(?:['’]s?|\b(?:his|her|their|wrong|incorrect|previous|initial|intermediate|first|earlier|other|possible|your"  # noqa: RUF001
    r"|an|each|every|if|whether|suppose|assuming|unless|when|not))\s+(?:the\s+|final\s+|correct\s+)*\Z",
    re.IGNORECASE,
)
_OF_A_PART = re.compile(
    r"\b(?:to|of|for)\b.*(?:\bpart|\bstep|\bsub|\bfirst|\bsecond|\bthird|\(\w\)|\bquestion \d)", re.I
)
_BOX = re.compile(r"(?=\\(?:boxed|fbox)[ {])")
_SENTENCE_END = re.compile(r"[.!?;](?=\s|\Z)|\n")


def is_answer(text: str, kind: AnswerType, reference: str | None = None) -> bool:
    """Whether a text is an answer: not blank, "unknown" or a placeholder, unless the reference says so."""
    if len(text) > MAX_CHARS:
        return True
    words = _words(text)
    if reference is not None and words and words == _words(reference):
        return True
    if _EMPTY_BOX.search(text) or _BLANK.fullmatch(normalize(text)):
        return False
    if words == "left" and kind in ("math", "number"):  # from "left as an exercise"
        return False
    return not (_NO_ANSWER.fullmatch(words) or _PLACEHOLDER.fullmatch(words))


def _words(text: str) -> str:
    return " ".join(_BRACKETS.sub(" ", normalize_words(text)).split())


def alternatives(text: str) -> list[str]:
    """Returns the values between which a text does not decide: "7 or 8", but not "x = 1 or x = 2"."""
    if len(text) > MAX_CHARS:
        return []
    parts = re.split(
        r",?\s+or(?:\s+maybe|\s+perhaps|\s+possibly)?\s+", normalize(text).removeprefix("either ")
    )
    if any(re.search(r"[=<>≤≥∈≠]", part) or is_prose(part) or not part.strip() for part in parts):
        return []
    return parts if len(parts) > 1 else []


def _boxed(response: str) -> Iterator[str]:
    """Yields the texts of all closed boxes."""
    for piece in _BOX.split(response)[1:][-MAX_BOXES:]:
        answer = extract(piece)
        if answer and answer.how == "boxed":
            yield answer.text


def _tagged(response: str) -> Iterator[str]:
    """Yields the texts of all closed answer tags, or of the box or phrase inside a tag."""
    for inside in in_tags(after_reasoning(response)):
        answer = extract(inside.text[-PHRASE_LIMIT:])
        firm = answer and answer.how in ("boxed", "phrase")
        yield answer.text if answer and firm else strip_markup(inside.text)


def _announced(response: str) -> Iterator[str]:
    """Yields the answers that phrases announce as the response's own to the whole question."""
    text = after_reasoning(response)
    phrases = _announcements_in_order(text)
    for phrase, following in zip_longest(phrases, phrases[1:]):
        end = following.start if following else len(text)
        if _counts(text, phrase, end):
            piece = text[phrase.start : min(end, phrase.end + PHRASE_LIMIT)]
            answer = extract(_heading_mark(text, phrase) + piece)
            if answer and answer.how == "phrase":
                yield answer.text


def _announcements_in_order(text: str) -> list[Announcement]:
    found: set[Announcement] = set()
    end = len(text)
    for _ in range(MAX_PASSES):
        some = announcements(text[:end])
        if not some:
            break
        found.update(some)
        end = min(phrase.start for phrase in some)
    ordered = sorted(found)
    return [a for a, b in zip_longest(ordered, ordered[1:]) if not (b and a.end > b.start)]


def _heading_mark(text: str, phrase: Announcement) -> str:
    """Returns the heading or bold mark that starts the phrase's line, "" if there is none."""
    start = text.rfind("\n", max(phrase.start - 20, 0), phrase.start) + 1
    before = text[start : phrase.start]
    return before if start and re.fullmatch(r"[\s#*]*", before) else ""


def _counts(text: str, phrase: Announcement, end: int) -> bool:
    """Whether a phrase announces the response's own answer to the whole question."""
    if _NOT_ITS_OWN.search(text[max(phrase.start - 40, 0) : phrase.start]):
        return False
    if _OF_A_PART.search(text[phrase.start : phrase.end]):
        return False
    between = text[phrase.end : end].strip(" \t\r\n*:")  # empty if the next phrase merely repeats this one
    return end == len(text) or bool(_SENTENCE_END.search(between) or re.search(r"\d", between))


def stated_answers(response: str) -> Iterator[tuple[str, bool]]:
    """Yields every distinct stated answer, and whether its form is firm (a box or a tag, not a phrase)."""
    for find in (_boxed, _tagged, _announced):
        for text in dict.fromkeys(find(response)):
            if find is _boxed or not (is_prose(text) or (find is _announced and "boxed" in text)):
                yield text, find is not _announced
