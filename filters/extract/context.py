r"""Reads the text around a stated answer for words that retract, limit or deny it.

The firmer the form of an answer, the less of its context counts: the direct neighbors of a box, but the whole
sentence of a mere last number. Words that the reference contains too ("at least 5") cast no doubt.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from filters.extract.answer import Answer, after_reasoning, extract
from filters.extract.phrases import announcements
from filters.extract.sentences import is_prose
from filters.text.qualifiers import (
    CONDITION,
    DENIALS,
    DOUBTS,
    HEDGES,
    NEGATIONS,
    any_phrase,
    is_changed,
    is_doubted,
)

BEFORE = 160  # characters read before a statement, for the start of its sentence
BESIDE = 25  # characters read on either side of a number, for words that change it
AFTER = 4000  # characters read after a statement, for a retraction

# Directly before a box or a tag, with optional filler.
_GAP = r"\s(?:(?:the|a|an|equal to|to be|be|that|it is|is)\s)*[\s$\\(\[{*:\"“]*\Z"
_LIMITS = """
might be | may be | could be | maybe | perhaps | possibly | almost | nearly | less than | more than
greater than | fewer than | larger than | smaller than | least | at most | up to | under | over | between
half | half of | twice | double | triple | minus | negative
"""
_THINKS = (
    "doubt | false | not true | not think | not believe | n't think | n't believe | wrong answer | suppose"
)
_BEFORE_BOX = re.compile(
    rf"(?:{any_phrase(NEGATIONS, DENIALS, _LIMITS)}|n['’]t){_GAP}"  # noqa: RUF001
    rf"|(?:{CONDITION.pattern})[^.,;]{{1,60}},\s(?:then\s)?(?:(?:the answer|it) is\s)?[\s$\\(\[{{*:\"“]*\Z"
    rf"|{any_phrase(_THINKS)}[^.,;]{{0,40}}\Z"
    r"|(?:[\dA-Za-z)}\]]|(?<!\n)-|[+/^<>≠≥≤]=?\s?|[\dA-Za-z)}]\s?\*\s?)[$({]*\Z"  # 2\boxed{5}
    r"|\\(?:sqrt|frac|neq?|[lg]t|[lg]eq?|cdot|times|pm|div|ln|lo?g|exp|(?:arc)?(?:sin|cos|tan)|cot|sec|csc)"
    r"(?:_\w|_?\{[^{}]*\})?\s?[({]*\Z",
    re.IGNORECASE,
)
# Tags, arrows and spaces, which change no box after them: <answer>\boxed{5}</answer>, so => \boxed{5}.
_APART = re.compile(
    r"(?:</?[A-Za-z_]{1,20}>|[-=]>|(?:\A|\n)[ \t]*>|\\(?:q?quad|implies|iff|therefore|(?:long)?rightarrow))"
    r"[\s$\\(\[{*]*\Z",
    re.IGNORECASE,
)
# Around a box: color, size, weight, another box.
_STYLED = re.compile(
    r"(?:\\(?:(?:displaystyle|large|huge|bf|color\{\w{1,20}\})|(?:boxed|fbox|text(?:bf|it)?|mathbf|bm|boldsymbol"
    r"|textcolor\{\w{1,20}\}|f?colorbox(?:\{\w{1,20}\}){1,2})\s?\{)[\s$]*)+(?=[\\(\[{]*\Z)",
    re.IGNORECASE,
)
_AFTER_BOX = re.compile(
    r"\s?(?:\^(?!\s?\{?\s?\\circ)|[!/]|\\(?:cdot|times|pm|div|pi|over|sqrt|frac|to|(?:long)?rightarrow|implies)(?![a-z])|[-+*]\s?\d|[-=]>|[→⇒])"
    r"|[xynkπie](?![A-Za-z])",
    re.IGNORECASE,
)
# Before "answer", in its clause.
_OF_ANOTHER = """
false | say | says | said | half | twice | double | triple | thrice | third | quarter | than | half of
square of | cube of | root of | reciprocal of | negative of | inverse of | part of | percent of | sum of
product of | digit of | digits of | maximum of | minimum of | bound of | one of | most of | all of | times
"""
_NOT_THE = """
his | her | their | your | previous | initial | intermediate | first | earlier | other | another
possible | an | a | each | every | one | some | alternative | expected | approximate
"""
_BEFORE_PHRASE = re.compile(
    rf"{DOUBTS}|{any_phrase(_OF_ANOTHER)}|(?:{any_phrase(_NOT_THE)}|['’]s?)\s(?:(?:final|correct|possible|right|\w+ly)\s){{0,2}}\Z",  # noqa: RUF001
    re.IGNORECASE,
)
_TO_ANOTHER = re.compile(
    r"\b(?:part|step|first|second|third|different|another|other|\(\w\)|question \d)\b", re.IGNORECASE
)
# In the clause of a mere last number: denials at any distance, negations next to it.
_OF_THE_LAST = re.compile(
    rf"{any_phrase(DENIALS, HEDGES)}|(?:{any_phrase(NEGATIONS)}|n['’]t)(?:\s[^\W\d]+){{0,2}}[\s$\\(]*\Z"  # noqa: RUF001
    rf"|(?:{any_phrase(NEGATIONS)}|n['’]t)\s(?:think|believe|say|know|sure|certain)",  # noqa: RUF001
    re.IGNORECASE,
)
_NOT_BESIDE = re.compile(rf"(?:{any_phrase(NEGATIONS)}|n['’]t)(?=(?:\s[^\W\d]+){{3}})", re.IGNORECASE)  # noqa: RUF001
# A condition directly before the number, or one on a letter.
_ONLY_IF = re.compile(
    r"\b(?:if|when|unless|suppose|assuming)\b[^,]*,\s(?:then\s)?(?:[^\W\d]+\s){0,2}[\s$\\(]*\Z"
    r"|\b(?:if|when|unless|for|suppose|assuming)\s(?:odd|even|[$\\(]*[b-hj-z]\b)|\b(?:unless|whether|otherwise|else)\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.!?;:,\n]\s|\n|[。！？，；：]")  # noqa: RUF001
_SENTENCE_END = re.compile(r"[.!?]\s|\n|[。！？]")  # noqa: RUF001
# The start of a sentence without a period before it.
_BEGINS = re.compile(r"\s(?=(?:The|So|Thus|Hence|Therefore|My|Our|Final)\b[^.,]{0,30}\Z)")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_AN_ANSWER = re.compile(r"\banswer\w*(?:['’]s)?(?=\s*\w)", re.IGNORECASE)  # noqa: RUF001
# Directly after a statement.
_GOES_ON = """
except | plus | minus | times | squared | cubed | percent of | per cent of | hundred | thousand | million
billion | dozen | or maybe | or perhaps | or possibly | or so | or more | or less | or fewer | and a half
and a third | and a quarter | give or take | at most | at least | isn't | should be | should have been
but | although | though | perhaps | maybe | allegedly | supposedly | last year | last month | last week
yesterday | no | sorry | i mean
"""
_IS_WRONG = (
    r"(?:is|was|isn['’]t|cannot be|can['’]t be|looks|seems)\s(?:\w+\s)?"  # noqa: RUF001
    r"(?:not|wrong|incorrect|false|no|mistaken|unlikely|too)\b"
)
_CONTINUED = re.compile(
    rf"[\s}}$)*.\\\]]*(?:[,;(—–-]|\.\.\.|…)?\s*(?:{CONDITION.pattern}|{any_phrase(_GOES_ON)}|[?!✗✘❌👎]"  # noqa: RUF001
    rf"|(?:(?:which|that|this|it)\s)?{_IS_WRONG}|[(\[—–-]\s?(?:wrong|incorrect)\b)",  # noqa: RUF001
    re.IGNORECASE,
)
# After a statement: a retraction, whatever follows.
_WITHDRAWS = """
scratch that | take that back | take this back | take it back | forget that | never mind | nevermind
ignore that | ignore the above | cannot be right | can't be right | cannot be correct | can't be correct
couldn't be right | i was wrong | i made a | i misread | i doubt | i am not | i'm not | i am unsure
i'm unsure | i miscounted | i miscalculated | not sure | no idea | just guessing | just a guess | a guess
just kidding
"""
_RETRACTION = re.compile(
    rf"{any_phrase(_WITHDRAWS)}|(?<!\w)(?:that|this|it|which|answer|above|\d)"
    r"(?:['’]s| is| was| seems| looks)? (?:\w+ly )?"  # noqa: RUF001
    r"(?:not (?:the (?:right |correct |final )?answer|right|correct|true|so)"
    r"|wrong|incorrect|false|mistaken|a mistake|an error|impossible)\b",
    re.IGNORECASE,
)
# After a statement: a retraction if another value follows.
_TURNS = """
wait | hold on | hang on | hm | hmm* | actually | correction | corrected | oops | sorry | apolog*
on second thought | on second thoughts | rather | instead | i mean | i meant | should be
should have been | misread | mistaken | there is a mistake | there was a mistake | there is an error
there was an error | some say | some think | others say | others think | many say | many think
people say | people think | the real answer | the true answer
"""
_ANOTHER = re.compile(
    r"(?:\A|[.!?\n—–-]\s*)[\s}$)*.]*no\b"  # noqa: RUF001
    rf"|(?!instead\sof\b|rather\sthan\b){any_phrase(_TURNS)}(?P<to>[\s$\\(*:]*)",
    re.IGNORECASE,
)
_VALUE = re.compile(
    r"\d|\b(?:true|false|yes|no|[B-J])\b(?!['’])|\\boxed"  # noqa: RUF001
    r"|\b(?:it|answer|that|this|choose|option)(?:['’]s| is| should be)\b",  # noqa: RUF001
    re.IGNORECASE,
)

# A line that denies one of the options: "- A. This is incorrect, because ..."
_DENIED_OPTION = re.compile(
    r"^[ \t*>•(-]*(?:option\s)?\(?([A-J])\)?\*{0,2}\s?[.:)–—-](?!.*\b(?:wait|actually|mistake\w*|answer)\b)"  # noqa: RUF001
    r".*\b(?:incorrect|wrong|false|impossible|not\s(?:true|correct|right|possible))\b.*$",
    re.IGNORECASE | re.MULTILINE,
)


class Statement(NamedTuple):
    """An answer and its context."""

    before: str  # up to BEFORE characters
    phrase: str  # the words that announce it, such as "the answer is", or ""
    text: str
    after: str  # up to AFTER characters
    how: str


def statement(response: str, answer: Answer) -> Statement:
    """Returns an answer found by `extract` with its context."""
    text = after_reasoning(response)
    before = text[max(answer.start - BEFORE, 0) : answer.start]
    phrase = text[answer.start : answer.start + 60] if answer.how == "phrase" else ""
    if answer.how in ("boxed", "tag"):
        announced = next(iter(announcements(before)), None)
        if announced and len(before) - announced.end <= 6:
            before, phrase = before[: announced.start], before[announced.start :]
    return Statement(before, phrase, answer.text, text[answer.end : answer.end + AFTER], answer.how)


def is_qualified(stated: Statement, reference: str) -> bool:
    """Whether words in or next to a statement leave open whether the answer is meant."""
    if is_doubted(stated.text, reference) or _CONTINUED.match(stated.after):
        return True
    if stated.how in ("boxed", "tag"):
        before = _APART.sub(" ", _STYLED.sub("", stated.before + stated.phrase))
        if _BEFORE_BOX.search(before) or _AFTER_BOX.match(stated.after):
            return True
    if stated.phrase:
        return _of_another(stated)
    return stated.how == "last" and _changed_beside(stated)


def _of_another(stated: Statement) -> bool:
    """Whether the phrase announces another answer than the response's own, or a part of it."""
    sentence = _BEGINS.split(_SENTENCE_END.split(stated.before)[-1])[-1]
    clause = _COMMAND.sub(" ", _CLAUSE_END.split(sentence)[-1])
    announced = stated.phrase.partition(stated.text[:1])[0]
    return bool(_BEFORE_PHRASE.search(clause) or CONDITION.search(sentence) or _TO_ANOTHER.search(announced))


def _changed_beside(stated: Statement) -> bool:
    """Whether the sentence of a mere last number denies or changes the number."""
    sentence, rest = _SENTENCE_END.split(stated.before)[-1], _CLAUSE_END.split(stated.after, maxsplit=1)[0]
    clause = _CLAUSE_END.split(sentence)[-1]
    if _OF_THE_LAST.search(clause) or _AN_ANSWER.search(clause) or _ONLY_IF.search(sentence):
        return True
    beside = re.sub(r"[<>≤≥≠](?!\s?[$\\(]*\Z)", " ", clause[-BESIDE:])  # in "x > 0 so 5", 5 is no bound
    return is_changed(_NOT_BESIDE.sub(" ", beside) + stated.text + rest[:BESIDE])


def later_answer(stated: Statement) -> str | None:
    """Returns another answer announced after a statement, in a tag or by a phrase."""
    if stated.how not in ("boxed", "tag", "phrase") or not stated.after.strip(" .$*}"):
        return None
    later = extract(stated.after)
    return later.text if later and later.how in ("tag", "phrase") and not is_prose(later.text) else None


def without_denied_options(stated: Statement, letter: str) -> Statement:
    """Removes the lines after a statement that deny other options than the one with this letter."""

    def kept(line: re.Match[str]) -> str:
        return line[0] if line[1].upper() == letter else ""

    return stated._replace(after=_DENIED_OPTION.sub(kept, stated.after))


def is_retracted(stated: Statement) -> bool:
    """Whether the text after a statement retracts it or turns to another value."""
    if _RETRACTION.search(stated.after):
        return True
    turns = (t for t in _ANOTHER.finditer(stated.after) if not _turns_to_itself(t, stated))
    turn = next(turns, None)
    if turn is None:
        return False
    rest = stated.after[turn.end() :].replace(stated.text, " ")
    return bool(_VALUE.search(rest) or (stated.text.replace(" ", "").isalpha() and re.search(r"\w", rest)))


def _turns_to_itself(turn: re.Match[str], stated: Statement) -> bool:
    """Whether a turn is a check of the same value: "the sum should be 14", after 14."""
    same = re.compile(rf"{re.escape(stated.text)}[\s$)}}*]*(?:[.,;!✓✔](?!\w)|\Z)")
    return turn["to"] is not None and same.match(stated.after, turn.end()) is not None
