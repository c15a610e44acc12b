"""Filter of mixed languages, which DeepSeek-R1 also removed from its data (arXiv 2501.12948, section 2.3.3).

It checks the words without code and formulas in two ways. Letters of another script reveal even a single word
(我们). CLD2 finds whole passages in another language, even of the same script. CLD2 (`pycld2`, Apache-2.0)
was the fastest detector tried, and it reports when it is not sure.
"""

from __future__ import annotations

import functools
import re
from typing import Annotated, Literal

from annotated_types import Interval

from filters.result import FilterResult, failed, passed
from filters.text.prose import prose, reasoning_of
from pipeline.rows import Trace

# ISO 639-1 code -> the scripts of its words other than Latin, which names and formulas use in any language.
_SCRIPTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("ru", "uk", "bg", "sr"), ("cyrillic",)),
    **dict.fromkeys(("ar", "fa", "ur"), ("arabic",)),
    **dict.fromkeys(("hi", "mr", "ne"), ("devanagari",)),
    "zh": ("han",),
    "ja": ("han", "kana"),
    "ko": ("hangul", "han"),
    "el": ("greek",),
    "he": ("hebrew",),
    "th": ("thai",),
    "bn": ("bengali",),
    "ta": ("tamil",),
}
# fmt: off
Language = Literal[
    "en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "no", "fi", "pl", "cs", "hu", "ro", "tr", "vi",
    "id", "ru", "uk", "bg", "sr", "ar", "fa", "ur", "hi", "mr", "ne", "zh", "ja", "ko", "el", "he", "th",
    "bn", "ta",
]
# fmt: on

# One letter is a symbol (π, ℵ, Ж), two are a word; up to three Greek letters may be a product (αβγ).
# A single Han character may be a word or a symbol: it counts if there are SINGLES of them.
_FOREIGN = re.compile(
    "(?P<han>[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+)"
    "|(?P<kana>[\u3041-\u3096\u30a1-\u30fa\u30fc]{2,})"
    "|(?P<hangul>[\uac00-\ud7a3]{2,})"
    "|(?P<cyrillic>[\u0400-\u052f]{2,})"
    "|(?P<greek>[\u0386-\u03ff\u1f00-\u1fff]{4,})"
    "|(?P<arabic>[\u0620-\u06d3]{2,})"
    "|(?P<hebrew>[\u05d0-\u05ea]{2,})"
    "|(?P<devanagari>[\u0904-\u0963]{2,})"
    "|(?P<thai>[\u0e01-\u0e4e]{2,})"
    "|(?P<bengali>[\u0980-\u09e3]{2,})"
    "|(?P<tamil>[\u0b80-\u0bcd]{2,})"
    "|(?P<other>[\u0530-\u058f\u0a00-\u0b7f\u0bce-\u0dff\u0f00-\u109f\u10a0-\u10ff\u1780-\u17ff]{2,})"
)
_ANY_FOREIGN = re.compile(
    "[\u3400-\u9fff\uf900-\ufaff]|[\u0370-\u1cff\u1f00-\u1fff\u3041-\u30ff\uac00-\ud7a3]{2}"
)
SINGLES = 3  # isolated Han characters, from which on they count as words
# Text that is only mentioned: up to 60 characters in quotation marks, or a few words in brackets. An
# apostrophe after a letter (let's) opens no quotation, and one before a letter closes none.
_MENTION = re.compile(
    r"(?P<gloss>[(\[（][^()\[\]（）\n]{1,60}[)\]）])"  # noqa: RUF001
    r"|[\"“„«「『](?=\S)[^\"“”«»「」『』\n]{1,60}[\"”“»」』]"
    r"|(?<![^\W\d_])['‘’](?=\S)[^‘’'\n]{1,60}['’](?![^\W\d_])"  # noqa: RUF001
)
GLOSS_LETTERS, GLOSS_WORDS = 8, 4  # with more foreign ones than these, brackets hold a sentence
# Languages that CLD2 distinguishes but readers do not, or not from a few sentences.
_SAME_LANGUAGE = {
    "zh-Hant": "zh", "nn": "no", "nb": "no", "da": "no", "hr": "sr", "bs": "sr", "ms": "id", "iw": "he",
    "sco": "en",
}  # fmt: skip
_UNSURE = frozenset({"un", "la", "xxx"})  # unknown, and Latin, which CLD2 reports for lists of names
_UNREADABLE = re.compile("[^\t\n -~\u00a0-\ud7ff\ue000-\ufdcf\ufdf0-\uffef\U00010000-\U0001fffd]")  # by CLD2
MIN_PASSAGE = 200  # bytes; CLD2 is not reliable on shorter passages


def one_language(
    trace: Trace,
    *,
    languages: list[Language] | None = None,
    max_words: Annotated[int, Interval(ge=0)] = 0,
    max_share: Annotated[float, Interval(ge=0, le=1)] = 0.1,
) -> FilterResult:
    """The reasoning is written only in `languages`, by default in the question's language.

    At most `max_words` words may be in another script, not counting quotations and short glosses in brackets,
    and at most `max_share` of the text in passages of other languages. If the question is too short to detect
    its language, the main language of the reasoning is allowed.
    """
    text = prose(reasoning_of(trace))
    own, shares = _passages(text)
    if languages:
        allowed = {_SAME_LANGUAGE.get(language, language) for language in languages}
        scripts = frozenset(script for language in languages for script in _SCRIPTS.get(language, ()))
    else:
        main, scripts = _of_question(trace.question)
        main = main or own
        allowed = {main} if main else set()
        scripts = scripts.union(_SCRIPTS.get(main or "", ()))
    foreign = {language: share for language, share in shares.items() if language not in allowed}
    if (own and own not in allowed) or sum(foreign.values()) > max_share:
        evidence = ", ".join(f"{language} {share:.0%}" for language, share in foreign.items())
        return failed("other_language", evidence or own)
    words = _foreign_words(text, scripts)
    return passed() if len(words) <= max_words else failed("mixed_scripts", " ".join(words[:20]))


def _foreign_words(text: str, scripts: frozenset[str]) -> list[str]:
    if text.isascii() or not _ANY_FOREIGN.search(text):
        return []
    found = _FOREIGN.finditer(_MENTION.sub(_blank_mention, text))
    words = [match[0] for match in found if match.lastgroup not in scripts]
    singles = sum(len(word) == 1 for word in words)
    return words if singles >= SINGLES else [word for word in words if len(word) > 1]


def _blank_mention(mention: re.Match[str]) -> str:
    """A blank, or the mention itself if its brackets hold a foreign sentence."""
    if not mention["gloss"]:
        return " "
    words = [(match.lastgroup, match[0]) for match in _FOREIGN.finditer(mention[0])]
    letters = sum(len(word) for script, word in words if script in ("han", "kana", "thai"))
    return mention[0] if letters > GLOSS_LETTERS or len(words) > GLOSS_WORDS else " "


@functools.lru_cache(maxsize=1024)  # one question has many samples
def _of_question(question: str) -> tuple[str | None, frozenset[str]]:
    """The language of a question and the scripts of its words, including quoted ones."""
    found = _FOREIGN.finditer(question) if _ANY_FOREIGN.search(question) else ()
    return _passages(prose(question))[0], frozenset(match.lastgroup or "" for match in found)


def _passages(text: str) -> tuple[str | None, dict[str, float]]:
    """The language of most of a text, None if CLD2 is not sure, and the shares of those it is sure of."""
    import pycld2

    text = _UNREADABLE.sub(" ", text)
    sure, size, details = pycld2.detect(text, bestEffort=False)
    shares: dict[str, float] = {}
    for _, code, percent, _ in details:
        if code not in _UNSURE and percent * size >= MIN_PASSAGE * 100:
            language = _SAME_LANGUAGE.get(code, code)
            shares[language] = shares.get(language, 0.0) + percent / 100
    main = details[0][1]
    return _SAME_LANGUAGE.get(main, main) if sure and main not in _UNSURE else None, shares
