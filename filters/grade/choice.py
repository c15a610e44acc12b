"""Letters of multiple choice: what letter an answer names, where it names one alone.

Leaves out what the options say: that is in the question, and the reference may give it.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from filters.text.qualifiers import CONDITION, WORDS


class Choice(NamedTuple):
    letter: str  # upper case
    text: str  # what stands beside it, "" where nothing does


class Letters(NamedTuple):
    """How the letters of options are written."""

    bracketed: re.Pattern[str]
    leading: re.Pattern[str]
    option: re.Pattern[str]
    alone: re.Pattern[str]
    listed: re.Pattern[str]


# Another part: "(a) 3 (b) 5" is no choice of (a); nor is "(a) + b" or "(a)^2".
_SECOND = re.compile(r"[(\[]\s?[A-Ja-j]\s?[)\]]|\A\s*[-+*/^=]|\A[a-z]\^")


def _letters(last: str) -> Letters:
    upper, any_case = f"[A-{last}]", f"[A-{last}a-{last.lower()}]"
    return Letters(
        re.compile(
            rf"[(\[]\s?({any_case})\s?[)\]](?!\s?(?:and\b|or\b|[-+*/^_=&,(\[]))(?:[.:]?\s(.*)|[.:]?)",
            re.DOTALL,
        ),
        re.compile(rf"({upper})(?:\s?[.:)]+(?:\s(.*))?|\s[-–]?\s?([A-Z][a-z]{{2}}.*))?", re.DOTALL),  # noqa: RUF001
        re.compile(rf"(?:option|choice|answer|letter)\s+\(?({any_case})\)?", re.IGNORECASE),
        re.compile(
            rf"(?<![A-Za-z/&+=*^'’\-])(?!A (?!(?:and|or|is)\b)[a-z]|I (?!(?:and|or|is)\b)[a-z])"  # noqa: RUF001
            rf"({upper})(?![A-Za-z'’(\-]|\s?[/&+=*^<>≤≥])"  # noqa: RUF001
        ),
        re.compile(rf"(?<![A-Za-z])({upper})\)?,\s(?=(?:and\s|or\s)?\(?{upper}(?![A-Za-z'’]))"),  # noqa: RUF001
    )


MATH = _letters("H")  # I and J are words and variables more often than options
CHOICE = _letters("J")  # where an option is asked for; MMLU-Pro has ten

_CLAUSE = re.compile(r"[,;.:!](?:\s|$)|\n|\bbut\b|\bbecause\b|\bsince\b")
_DOUBTED = re.compile(
    rf"\b(?:not|no|never|cannot|nor|neither|none|if|false|than|non|nicht|kein\w*|falsch|pas|faux|não|не"
    rf"|least|worst)\b|{WORDS}"
    r"|n['’]t\b|[不错]",  # noqa: RUF001
    re.IGNORECASE,
)
# What has a letter for a name and is no option: company B, vitamin D.
_SENTENCE = re.compile(r"(?<=[.!?\n])(?=\s)")
# What makes a sentence state nothing: a condition, a question, "all but B", "Wrong: B".
_OPEN = re.compile(
    rf"{CONDITION.pattern}|\b(?:all|any\w*|every\w*|none)\s+but\b|\?\s*\Z|\bor (?:maybe|perhaps|possibly)\b"
    rf"|\bnot sure\b|\bnone of\b|(?:{WORDS})[^.:]{{0,20}}:\s",
    re.IGNORECASE,
)
_TURNS = re.compile(r"\b(?:wait|actually|hmm+|correction|sorry|oops|no(?=[:,]))\b", re.IGNORECASE)
_CHOOSES = re.compile(
    r"(?:\A|(?:\A|\b(?:i|we|i['’]d|so|thus|therefore|hence|let['’]s|will|must|should)\s(?:\w+ly\s)?)"  # noqa: RUF001
    r"(?:choose|chose|pick|picked|select|selected|go|mark)(?:\swith|\sfor)?\b"
    r"|\b(?:answers?|options?|choices?|letter|is|are|be|so|thus|hence|therefore|then|and|or|than|say|sure|definitely"
    r"|clearly|namely|ist|lautet|est|es)\b|['’]s\b|[:=])"  # noqa: RUF001
    r"[\s:*\"'(\[]*(?:(?:the|la|option|choice|letter|answer)\b[\s:*\"'(\[]*){0,2}\Z",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"[)\]*\"'.]*(?:\s(?:and|or)\s\(?[A-J]\)?)*"
    r"(?:\s(?:(?:is|are|must be|has to be)\s(?:\w+ly\s|indeed\s)?(?:(?:the|our|my|only)\s)*"
    r"(?:correct|right|best|true|valid|answer|one|choice|option|final|it)\b.*"
    r"|(?:holds?|fits?|works?|match(?:es)?|stands?)\b.*"
    r"|\(.*|[-–—]\s.*|as\b.*|in (?:all|the end)\b.*|here\b.*))?\s*",  # noqa: RUF001
    re.IGNORECASE | re.DOTALL,
)
_THING = re.compile(
    r"\b(?:company|triangle|vitamin|group|type|class|team|person|player|point|line|plan|figure|hepatitis|influenza"
    r"|virus|antigen|case|part|section|city|town|train|car|box|bag|set|matrix|event|angle|circle|square|side|column"
    r"|row|step|method|country|store|shop|machine|factory|graph|table|model|sample|mixture|container|jar|tank|pipe"
    r"|stage|grade|level|building|school|student|worker|substance|element|gas|compound|species|product|brand|planet"
    r"|star|immunoglobulin|coenzyme|phase|region|zone|district|room|node|vertex|cell|gene|allele)\s$",
    re.IGNORECASE,
)
# What a clause in words has and a formula has not.
_WORDS = re.compile(r"[a-z]{2}|[\u0400-\u04ff]{2}|[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_REASON = re.compile(r"(?:,\s?|\s)(?:because|since)\s[^.\n]*")


def read_choice(text: str, letters: Letters = MATH) -> Choice | None:
    """The choice that a folded text is: "C", "(C)", "C.", "(C) Alina", "C: Alina"; None for any other."""
    if (match := letters.bracketed.fullmatch(text)) and not _SECOND.search(match[2] or ""):
        return Choice(match[1].upper(), (match[2] or "").strip())
    if match := letters.leading.fullmatch(text):
        return Choice(match[1], (match[2] or match[3] or "").strip())
    if match := letters.option.fullmatch(text):
        return Choice(match[1].upper(), "")
    return None


def named_choices(text: str, letters: Letters) -> set[str]:
    """The letters that a folded text names for its answer; more than one where it does not decide.

    What its last undoubted clause says counts, unless it began with another letter: "B. (...) So it is C."
    """
    if (choice := read_choice(text, letters)) and not choice.text:
        return {choice.letter}
    if _TURNS.search(text) and len({match[1] for match in letters.alone.finditer(text)}) > 1:
        return set()
    firm = "".join(sentence for sentence in _SENTENCE.split(text) if not _OPEN.search(sentence))
    clauses = _CLAUSE.split(letters.listed.sub(r"\1 and ", firm))
    named = [found for clause in clauses if (found := _named(clause, letters))]
    first = read_choice(clauses[0].strip(), letters)
    if first is None:
        return named[-1] if named else set()
    return {first.letter}.union(*named)


def _named(clause: str, letters: Letters) -> set[str]:
    if "\\" in clause:
        return set()
    if doubt := _DOUBTED.search(clause):
        if doubt[0].casefold() not in ("not", "non", "nicht", "不"):
            return set()
        chosen = read_choice(clause[: doubt.start()].strip(), letters)  # "C, not A" without the comma
        return {chosen.letter} if chosen and not chosen.text else set()
    if choice := read_choice(clause.strip(), letters):
        return {choice.letter}
    if not _WORDS.search(clause):
        return set()
    found = [match for match in letters.alone.finditer(clause) if not _is_thing(clause, match)]
    return {match[1] for match in found} if any(_is_chosen(clause, match) for match in found) else set()


def _is_thing(clause: str, letter: re.Match[str]) -> bool:
    return bool(_THING.search(clause[max(letter.start() - 20, 0) : letter.start()]))


def _is_chosen(clause: str, letter: re.Match[str]) -> bool:
    """Whether the words beside a letter say that it is the answer; in other languages, that none deny it."""
    if not clause.isascii():
        return True
    before = clause[max(letter.start() - 40, 0) : letter.start()]
    return bool(_CHOOSES.search(before) and _CHOSEN.fullmatch(clause, letter.end()))


def without_reasons(text: str) -> str:
    """The text without what follows "because": a letter or a "true" there is no answer."""
    return _REASON.sub("", text)


def _alike(text: str, other: str) -> bool:
    return "".join(text.casefold().split()) == "".join(other.casefold().split())


def same_choice(gold: Choice, given: str, *, case_sensitive: bool = False) -> bool | None:
    """Whether a folded text names the reference's option; None where it names none, or several."""
    choice = read_choice(given)
    if choice is None and not gold.text and len(given) == 1 and not case_sensitive and given.isalpha():
        return given.upper() == gold.letter
    if choice is not None:
        if choice.letter == gold.letter and gold.text and choice.text and not _alike(gold.text, choice.text):
            return None  # the letter of the one, the text of another
        return choice.letter == gold.letter
    if gold.text and given.casefold() == gold.text.casefold():
        return True
    named = named_choices(given, MATH)
    return named == {gold.letter} if len(named) == 1 else None
