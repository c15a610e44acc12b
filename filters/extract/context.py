r"""What stands around a stated answer, and whether it takes the answer back, limits it or denies it.

The firmer an answer is stated, the less its surroundings weigh: of a box only its neighbours count, of a
number that merely comes last its whole sentence. What the reference says as well ("at least 5") is no doubt.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from filters.extract.answer import Answer, after_thought, extract
from filters.extract.phrases import announcements
from filters.extract.sentences import is_prose
from filters.text.qualifiers import CONDITION, DENIED, HEDGED, NOT, WORDS, any_of, changed, doubted

BEFORE = 160  # characters before a statement in which its sentence may have begun
BESIDE = 25  # characters on either side of a number in which a word or mark may change it
AFTER = 4000  # characters behind a statement in which it may be taken back

# Directly before a box or a tag, with what may stand between.
_GAP = r"\s(?:(?:the|a|an|equal to|to be|be|that|it is|is)\s)*[\s$\\(\[{*:\"“]*\Z"
_LIMITS = """
might be | may be | could be | maybe | perhaps | possibly | almost | nearly | less than | more than
greater than | fewer than | larger than | smaller than | least | at most | up to | under | over | between
half | half of | twice | double | triple | minus | negative
"""
_THINKS = (
    "doubt | false | not true | not think | not believe | n't think | n't believe | wrong answer | suppose"
)
_BESIDE_BOX = re.compile(
    rf"(?:{any_of(NOT, DENIED, _LIMITS)}|n['’]t){_GAP}"  # noqa: RUF001
    rf"|(?:{CONDITION.pattern})[^.,;]{{1,60}},\s(?:then\s)?(?:(?:the answer|it) is\s)?[\s$\\(\[{{*:\"“]*\Z"
    rf"|{any_of(_THINKS)}[^.,;]{{0,40}}\Z"
    r"|(?:[\dA-Za-z)}\]]|(?<!\n)-|[+/^<>≠≥≤]\s?|[\dA-Za-z)}]\s?\*\s?)[$({]*\Z"  # 2\boxed{5}
    r"|\\(?:sqrt|frac|neq?|[lg]t|[lg]eq?|cdot|times|pm|div)(?:\{[^{}]*\})?\s?[({]*\Z",
    re.IGNORECASE,
)
_BEHIND_BOX = re.compile(
    r"\s?(?:[\^!/]|\\(?:cdot|times|pm|div|pi|over|sqrt|frac|to|(?:long)?rightarrow|implies)(?![a-z])|[-+*]\s?\d|[-=]>|[→⇒])"
    r"|[xynkπie](?![A-Za-z])",
    re.IGNORECASE,
)
# What stands before "answer" in its clause.
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
    rf"{WORDS}|{any_of(_OF_ANOTHER)}|(?:{any_of(_NOT_THE)}|['’]s?)\s(?:(?:final|correct|possible|right|\w+ly)\s){{0,2}}\Z",  # noqa: RUF001
    re.IGNORECASE,
)
_TO_ANOTHER = re.compile(
    r"\b(?:part|step|first|second|third|different|another|other|\(\w\)|question \d)\b", re.IGNORECASE
)
# In the clause of a number that merely comes last: what denies it, however far away, or beside it.
_OF_THE_LAST = re.compile(
    rf"{any_of(DENIED, HEDGED)}|(?:{any_of(NOT)}|n['’]t)(?:\s[^\W\d]+){{0,2}}[\s$\\(]*\Z"  # noqa: RUF001
    rf"|(?:{any_of(NOT)}|n['’]t)\s(?:think|believe|say|know|sure|certain)",  # noqa: RUF001
    re.IGNORECASE,
)
_NOT_BESIDE = re.compile(rf"(?:{any_of(NOT)}|n['’]t)(?=(?:\s[^\W\d]+){{3}})", re.IGNORECASE)  # noqa: RUF001
# A condition of which the number is all that follows, or one on a letter.
_ONLY_IF = re.compile(
    r"\b(?:if|when|unless|suppose|assuming)\b[^,]*,\s(?:then\s)?(?:[^\W\d]+\s){0,2}[\s$\\(]*\Z"
    r"|\b(?:if|when|unless|for|suppose|assuming)\s(?:odd|even|[$\\(]*[b-hj-z]\b)|\b(?:unless|whether|otherwise|else)\b",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(r"[.!?;:,\n]\s|\n|[。！？，；：]")  # noqa: RUF001
_SENTENCE_END = re.compile(r"[.!?]\s|\n|[。！？]")  # noqa: RUF001
_BEGINS = re.compile(
    r"\s(?=(?:The|So|Thus|Hence|Therefore|My|Our|Final)\b[^.,]{0,30}\Z)"
)  # without a stop before it
_COMMAND = re.compile(r"\\[A-Za-z]+")
_AN_ANSWER = re.compile(r"\banswer\w*(?:['’]s)?(?=\s*\w)", re.IGNORECASE)  # noqa: RUF001
# Directly behind a statement.
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
    rf"[\s}}$)*.\\\]]*(?:[,;(—–-]|\.\.\.|…)?\s*(?:{CONDITION.pattern}|{any_of(_GOES_ON)}|[?!✗✘❌👎]"  # noqa: RUF001
    rf"|(?:(?:which|that|this|it)\s)?{_IS_WRONG}|[(\[—–-]\s?(?:wrong|incorrect)\b)",  # noqa: RUF001
    re.IGNORECASE,
)
# Behind a statement: what takes it back, whatever follows.
_WITHDRAWS = """
scratch that | take that back | take this back | take it back | forget that | never mind | nevermind
ignore that | ignore the above | cannot be right | can't be right | cannot be correct | can't be correct
couldn't be right | i was wrong | i made a | i misread | i doubt | i am not | i'm not | i am unsure
i'm unsure | i miscounted | i miscalculated | not sure | no idea | just guessing | just a guess | a guess
just kidding
"""
_TAKEN_BACK = re.compile(
    rf"{any_of(_WITHDRAWS)}|(?<!\w)(?:that|this|it|which|answer|above|\d)"
    r"(?:['’]s| is| was| seems| looks)? (?:\w+ly )?"  # noqa: RUF001
    r"(?:not (?:the (?:right |correct |final )?answer|right|correct|true|so)"
    r"|wrong|incorrect|false|mistaken|a mistake|an error|impossible)\b",
    re.IGNORECASE,
)
# And what does where another value follows.
_TURNS = """
wait | hold on | hang on | hm | hmm* | actually | correction | corrected | oops | sorry | apolog*
on second thought | on second thoughts | rather | instead | i mean | i meant | should be
should have been | misread | mistaken | there is a mistake | there was a mistake | there is an error
there was an error | some say | some think | others say | others think | many say | many think
people say | people think | the real answer | the true answer
"""
_ANOTHER = re.compile(rf"(?:\A|[.!?\n—–-]\s*)[\s}}$)*.]*no\b|{any_of(_TURNS)}", re.IGNORECASE)  # noqa: RUF001
_VALUE = re.compile(
    r"\d|\b(?:true|false|yes|no|[B-J])\b(?!['’])|\\boxed"  # noqa: RUF001
    r"|\b(?:it|answer|that|this|choose|option)(?:['’]s| is| should be)\b",  # noqa: RUF001
    re.IGNORECASE,
)


class Statement(NamedTuple):
    """An answer, and what stands around it."""

    before: str  # up to BEFORE characters of the text before it
    words: str  # that announce it, as "the answer is"; "" where none do
    text: str
    after: str  # up to AFTER characters of the text behind it
    how: str


def statement(response: str, answer: Answer) -> Statement:
    """An answer that `extract` found, in its surroundings."""
    text = after_thought(response)
    before = text[max(answer.start - BEFORE, 0) : answer.start]
    words = text[answer.start : answer.start + 60] if answer.how == "phrase" else ""
    if answer.how in ("boxed", "tag"):
        place = next(iter(announcements(before)), None)
        if place and len(before) - place.end <= 6:
            before, words = before[: place.start], before[place.start :]
    return Statement(before, words, answer.text, text[answer.end : answer.end + AFTER], answer.how)


def qualified(said: Statement, reference: str) -> bool:
    """Whether something in or beside a statement leaves open whether its answer is meant."""
    if doubted(said.text, reference) or _CONTINUED.match(said.after):
        return True
    if said.how in ("boxed", "tag") and (
        _BESIDE_BOX.search(said.before + said.words) or _BEHIND_BOX.match(said.after)
    ):
        return True
    if said.words:
        return _of_another(said)
    return said.how == "last" and _changed_beside(said)


def _of_another(said: Statement) -> bool:
    """Whether what is announced is not the response's own answer, or not the whole one."""
    sentence = _BEGINS.split(_SENTENCE_END.split(said.before)[-1])[-1]
    clause = _COMMAND.sub(" ", _CLAUSE_END.split(sentence)[-1])
    announced = said.words.partition(said.text[:1])[0]
    return bool(_BEFORE_PHRASE.search(clause) or CONDITION.search(sentence) or _TO_ANOTHER.search(announced))


def _changed_beside(said: Statement) -> bool:
    """The same of a number that nothing announces: what its whole sentence says of it."""
    sentence, rest = _SENTENCE_END.split(said.before)[-1], _CLAUSE_END.split(said.after, maxsplit=1)[0]
    clause = _CLAUSE_END.split(sentence)[-1]
    if _OF_THE_LAST.search(clause) or _AN_ANSWER.search(clause) or _ONLY_IF.search(sentence):
        return True
    beside = re.sub(r"[<>≤≥≠](?!\s?[$\\(]*\Z)", " ", clause[-BESIDE:])  # of x > 0 so 5 the 5 is no bound
    return changed(_NOT_BESIDE.sub(" ", beside) + said.text + rest[:BESIDE])


def later_answer(said: Statement) -> str | None:
    """Another answer that is announced behind a statement, in a tag or in words."""
    if said.how not in ("boxed", "tag", "phrase") or not said.after.strip(" .$*}"):
        return None
    later = extract(said.after)
    return later.text if later and later.how in ("tag", "phrase") and not is_prose(later.text) else None


def taken_back(said: Statement) -> bool:
    """Whether the text behind a statement withdraws it or goes on to another value."""
    if _TAKEN_BACK.search(said.after):
        return True
    turn = _ANOTHER.search(said.after)
    if turn is None:
        return False
    rest = said.after[turn.end() :].replace(said.text, " ")
    return bool(_VALUE.search(rest) or (said.text.replace(" ", "").isalpha() and re.search(r"\w", rest)))
