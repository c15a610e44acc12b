"""Compares multiple-choice answers by the letter of the option, or by its text if the reference gives it."""

from __future__ import annotations

import re
from typing import NamedTuple

from filters.grade.decision import MAX_CHARS, Decision
from filters.text.normalize import normalize
from filters.text.qualifiers import CONDITION, DOUBTS


class Choice(NamedTuple):
    letter: str  # in upper case
    text: str  # of the option, "" if there is none


class Letters(NamedTuple):
    """Patterns for the letters of options."""

    bracketed: re.Pattern[str]
    leading: re.Pattern[str]
    option: re.Pattern[str]
    alone: re.Pattern[str]
    listed: re.Pattern[str]


# Texts that start with (a) and are not the option: "(a) 3 (b) 5", "(a) + b", "(a)^2".
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


MATH = _letters("H")  # in mathematics, I and J are usually words or variables
CHOICE = _letters("J")  # MMLU-Pro has ten options

_CLAUSE = re.compile(r"[,;.:!](?:\s|$)|\n|\bbut\b|\bbecause\b|\bsince\b")
_DOUBTED = re.compile(
    rf"\b(?:not|no|never|cannot|nor|neither|none|if|false|than|non|nicht|kein\w*|falsch|pas|faux|não|не"
    rf"|least|worst)\b|{DOUBTS}"
    r"|n['’]t\b|[不错錯誤误]|排除|間違|틀[린렸리립]|아[니닌닙]"  # noqa: RUF001
    r"|\b(?:incorrect[aeo]s?|falsch\w*|fals[aeo]s?|errad[ao]s?|errat[aeio]|errón\w+|erroné\w+|equivocad[ao]s?"
    r"|sbagliat[aeio]|scorrett[aeio]|onjuist\w*|fout|błędn\w+|niepoprawn\w+|nieprawidłow\w+|fel|felaktig\w*|yanlış\w*"  # noqa: RUF001
    r"|salah|sai|невер(?:н\w+|ен)|неправильн\w+|ошибоч\w+|хибн\w+|गलत)\b|خاطئ|خطأ|ليست?\b",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?\n])(?=\s)")
# Sentences that state nothing: a condition, a question, "all but B", "Wrong: B".
_NO_STATEMENT = re.compile(
    rf"{CONDITION.pattern}|\b(?:all|any\w*|every\w*|none)\s+but\b|\?\s*\Z|\bor (?:maybe|perhaps|possibly)\b"
    rf"|\bnot sure\b|\bnone of\b|(?:{DOUBTS})[^.:]{{0,20}}:\s",
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
# What is said of an option, which is not its text: (B) is wrong.
_DENIED = re.compile(
    r"(?:is|was|seems|looks)\s(?:\w+ly\s|also\s)?(?:wrong|incorrect|false|untrue|invalid|mistaken"
    r"|ruled out|eliminated|a distractor|not\s(?:the\s)?(?:\w+\s)?(?:right|correct|true|valid|answer)\b)"
    r"|(?:isn|wasn)['’]t\s(?:the\s)?(?:\w+\s)?(?:right|correct|true|answer)\b"  # noqa: RUF001
    r"|cannot be(?:\s(?:right|correct|true|the answer))?\W*\Z|fails?\W*\Z|contradicts\b|[✗✘❌]",
    re.IGNORECASE,
)
# Things with a letter for a name that are no options: company B, vitamin D.
_THING = re.compile(
    r"\b(?:company|triangle|vitamin|group|type|class|team|person|player|point|line|plan|figure|hepatitis|influenza"
    r"|virus|antigen|case|part|section|city|town|train|car|box|bag|set|matrix|event|angle|circle|square|side|column"
    r"|row|step|method|country|store|shop|machine|factory|graph|table|model|sample|mixture|container|jar|tank|pipe"
    r"|stage|grade|level|building|school|student|worker|substance|element|gas|compound|species|product|brand|planet"
    r"|star|immunoglobulin|coenzyme|phase|region|zone|district|room|node|vertex|cell|gene|allele)\s$",
    re.IGNORECASE,
)
# Found in clauses of words, not in formulas.
_WORDS = re.compile(r"[a-z]{2}|[\u0400-\u04ff]{2}|[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
_REASON = re.compile(r"(?:,\s?|\s)(?:because|since)\s[^.\n]*")


def parse_choice(text: str, letters: Letters = MATH) -> Choice | None:
    """Parses a normalized text that is one option: "C", "(C)", "C.", "(C) Alina", "C: Alina"."""
    if (match := letters.bracketed.fullmatch(text)) and not _SECOND.search(match[2] or ""):
        return Choice(match[1].upper(), (match[2] or "").strip())
    if match := letters.leading.fullmatch(text):
        return Choice(match[1], (match[2] or match[3] or "").strip())
    if match := letters.option.fullmatch(text):
        return Choice(match[1].upper(), "")
    return None


def named_choices(text: str, letters: Letters) -> set[str]:
    """Returns the letters that a normalized text names as its answer, several if it does not decide.

    The last clause without doubt counts, and with it a letter at the start: "B. (...) So it is C."
    """
    if (choice := parse_choice(text, letters)) and not choice.text:
        return {choice.letter}
    if _TURNS.search(text) and len({match[1] for match in letters.alone.finditer(text)}) > 1:
        return set()
    statements = "".join(sentence for sentence in _SENTENCE.split(text) if not _NO_STATEMENT.search(sentence))
    clauses = _CLAUSE.split(letters.listed.sub(r"\1 and ", statements))
    named = [found for clause in clauses if (found := _named(clause, letters))]
    first = parse_choice(clauses[0].strip(), letters)
    if first is None or _DENIED.match(first.text):
        return named[-1] if named else set()
    return {first.letter}.union(*named)


def _named(clause: str, letters: Letters) -> set[str]:
    if "\\" in clause:
        return set()
    if doubt := _DOUBTED.search(clause):
        if doubt[0].casefold() not in ("not", "non", "nicht", "不"):
            return set()
        chosen = parse_choice(clause[: doubt.start()].strip(), letters)  # "C, not A" without the comma
        return {chosen.letter} if chosen and not chosen.text else set()
    if choice := parse_choice(clause.strip(), letters):
        return set() if _DENIED.match(choice.text) else {choice.letter}
    if not _WORDS.search(clause):
        return set()
    found = [m for m in letters.alone.finditer(clause) if not _THING.search(clause[: m.start()][-20:])]
    return {match[1] for match in found} if any(_is_chosen(clause, match) for match in found) else set()


def _is_chosen(clause: str, letter: re.Match[str]) -> bool:
    """Whether the words around a letter make it the answer. Outside ASCII, it is enough that none deny it."""
    if not clause.isascii():
        return True
    before = clause[max(letter.start() - 40, 0) : letter.start()]
    return bool(_CHOOSES.search(before) and _CHOSEN.fullmatch(clause, letter.end()))


def without_reasons(text: str) -> str:
    """Removes reasons ("because ..."), whose letters and truth values are no answers."""
    return _REASON.sub("", text)


def compare_choices(reference: str, answer: str) -> Decision:
    """Compares answers that are options, A to J."""
    expected = parse_choice(normalize(reference.strip()), CHOICE)
    expected = expected or parse_choice(reference.strip().upper(), CHOICE)
    if expected is None:
        return Decision(None, "choice", "unreadable_reference")
    if len(answer) > MAX_CHARS:
        return Decision(None, "choice", "refused")
    answer = normalize(answer)
    if expected.text and answer.casefold() == expected.text.casefold():
        return Decision(True, "text")
    named = named_choices(answer.upper() if len(answer) == 1 else without_reasons(answer), CHOICE)
    if len(named) != 1:
        return Decision(None, "choice", "ambiguous" if named else "unreadable_answer")
    return Decision(named == {expected.letter}, "choice")


def names_choice(expected: Choice, answer: str) -> bool | None:
    """Whether a normalized answer of type math names an option, None if it names none or several."""
    choice = parse_choice(answer)
    if choice is None and not expected.text and len(answer) == 1 and answer.isalpha():
        return answer.upper() == expected.letter
    if choice is not None:
        if _DENIED.match(choice.text):
            return None
        if choice.letter == expected.letter and expected.text and choice.text:
            text, other = ("".join(c.text.casefold().split()) for c in (expected, choice))
            return True if text == other else None
        return choice.letter == expected.letter
    if expected.text and answer.casefold() == expected.text.casefold():
        return True
    named = named_choices(answer, MATH)
    return named == {expected.letter} if len(named) == 1 else None
