"""What a response states for its answer: whether that is an answer at all, and everything that it states.

Leaves out which of several counts (`filters.extract.answer`) and whether two are the same
(`filters.rules.format`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import TYPE_CHECKING

from filters.extract.answer import PHRASE_LIMIT, after_thought, extract, in_tags
from filters.extract.phrases import PooledEndpoint, announcements
from filters.extract.sentences import is_prose
from filters.text.normalize import fold, normalize_text, tidy

if TYPE_CHECKING:
    from pipeline.rows import AnswerType

ROUNDS = 4  # in which announcements are looked for, from the end; each finds a few of every word
BOXES = 500  # that are read, the last ones
LENGTH = 300  # characters of a text that says that there is no answer

_EMPTY_BOX = re.compile(r"\\+[a-z]*box(?:ed)?\s*\{\s*\}")
_BLANK = re.compile(
    r"(?:[?._…\s□☐$]|\\(?:[lc]?dots\w?|square|[a-z]*space|q?quad|underline)\b|\\?[,;!]|[{}](?!\Z))*"
)
_CLASSES = re.compile(r"[\[\]<>{}*]+")
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
# Whose answer it is, or only an answer if: no statement of the response's own.
_ANOTHERS = re.compile(
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
    """Not blank, no "unknown", no placeholder; but what the reference says is an answer whatever it says."""
    if len(text) > LENGTH:
        return True
    words = " ".join(_CLASSES.sub(" ", normalize_text(text)).split())
    if (
        reference is not None
        and words
        and words == " ".join(_CLASSES.sub(" ", normalize_text(reference)).split())
    ):
        return True
    if _EMPTY_BOX.search(text) or _BLANK.fullmatch(fold(text)):
        return False
    if words == "left" and kind in ("math", "number"):  # where "left as an exercise" is cut
        return False
    return not (_NO_ANSWER.fullmatch(words) or _PLACEHOLDER.fullmatch(words))


def alternatives(text: str) -> list[str]:
    """The bare values between which a text does not decide, as 7 or 8; none in "x = 1 or x = 2"."""
    if len(text) > LENGTH:
        return []
    parts = re.split(r",?\s+or(?:\s+maybe|\s+perhaps|\s+possibly)?\s+", fold(text).removeprefix("either "))
    if any(re.search(r"[=<>≤≥∈≠]", part) or is_prose(part) or not part.strip() for part in parts):
        return []
    return parts if len(parts) > 1 else []


def boxed(response: str) -> list[str]:
    """What each closed box holds, each text once."""
    pieces = _BOX.split(response)[1:][-BOXES:]
    found = (extract(piece) for piece in pieces)
    return list(dict.fromkeys(answer.text for answer in found if answer and answer.how == "boxed"))


def tagged(response: str) -> list[str]:
    """What each closed pair of answer tags holds, or the box or announced answer in it, each text once."""
    found = dict[str, None]()
    for inside in in_tags(after_thought(response)):
        answer = extract(inside[-PHRASE_LIMIT:])
        found[answer.text if answer and answer.how in ("boxed", "phrase") else tidy(inside)] = None
    return list(found)


def announced(response: str) -> list[str]:
    """What follows each "the answer is" of the response's own on the whole question, each text once."""
    text = after_thought(response)
    places = _places(text)
    found = dict[str, None]()
    for place, behind in zip_longest(places, places[1:]):
        end = behind.start if behind else len(text)
        if _counts(text, place, end):
            piece = text[place.start : min(end, place.end + PHRASE_LIMIT)]
            answer = extract(_headed(text, place) + piece)
            if answer and answer.how == "phrase":
                found[answer.text] = None
    return list(found)


def _places(text: str) -> list[PooledEndpoint]:
    """Where answers are announced, the first first."""
    found: set[PooledEndpoint] = set()
    end = len(text)
    for _ in range(ROUNDS):
        some = announcements(text[:end])
        if not some:
            break
        found.update(some)
        end = min(place.start for place in some)
    ordered = sorted(found)
    return [a for a, b in zip_longest(ordered, ordered[1:]) if not (b and a.end > b.start)]


def _headed(text: str, place: PooledEndpoint) -> str:
    """The start of the line where that is a heading's or a bold word's mark."""
    start = text.rfind("\n", max(place.start - 20, 0), place.start) + 1
    before = text[start : place.start]
    return before if start and re.fullmatch(r"[\s#*]*", before) else ""


def _counts(text: str, place: PooledEndpoint, end: int) -> bool:
    """Whether it is the response's own, on the whole question, and not only the start of the next one."""
    if _ANOTHERS.search(text[max(place.start - 40, 0) : place.start]):
        return False
    if _OF_A_PART.search(text[place.start : place.end]):
        return False
    between = text[place.end : end].strip(" \t\r\n*:")
    return end == len(text) or bool(_SENTENCE_END.search(between) or re.search(r"\d", between))


def each(response: str) -> Iterator[tuple[str, bool]]:
    """Everything stated, with whether it was in so firm a form that it has to be read: not mere words."""
    yield from ((text, True) for text in boxed(response))
    yield from ((text, True) for text in tagged(response) if not is_prose(text))
    yield from ((text, False) for text in announced(response) if not is_prose(text) and "boxed" not in text)
