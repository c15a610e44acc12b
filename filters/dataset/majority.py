"""Without a reference: what most samples of a problem answer is taken for right (Wang et al. 2022).

Answers are put into classes: 1/2 and 0.5 are one. Texts are the same by their words; two of mathematics if
each of them, taken as the reference, makes the other correct; an answer that is the same as two others makes
these the same, too. A trace that ended by itself and holds an answer, read as `filters.rules.correct` reads
it, votes; the others do not, nor does one that says that the answer is not known. That most agree is no
proof, so the evidence of every verdict says that it rests on a vote: "majority 6/8, margin 0.50, entropy 0.56
nats".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from typing import Annotated

from pydantic import Field

from filters.extract.candidates import is_answer
from filters.extract.context import statement, taken_back
from filters.extract.sentences import in_prose, is_prose
from filters.grade.compare import compare
from filters.grade.grader import BY_VALUE, verify
from filters.grade.json_answer import is_several
from filters.policy import DEFAULT, Policy
from filters.result import FilterResult, failed, passed, undecided
from filters.rules.correct import judged_answer
from filters.text.normalize import fold, normalize_text
from pipeline.rows import AnswerType, Trace

SPELLINGS = 100  # that are compared with one another; any further one is a class of its own


def majority(
    traces: Sequence[Trace],
    *,
    margin: Annotated[float, Field(gt=0, le=1)] = 0.5,
    votes: Annotated[int, Field(ge=2)] = 4,
    comparisons: Annotated[int, Field(ge=0, le=10_000)] = 32,
    timeout: Annotated[float, Field(gt=0)] = 2.0,
    policy: Policy = DEFAULT,
) -> list[FilterResult]:
    """One finding for each sample of one problem, in order: does it answer what most of them answer?

    Nobody can tell without `votes` of them, and unless the winner's share of the votes is `margin` above that
    of the second. At most `comparisons` pairs of answers that are more than plain numbers are compared, each
    in twice `timeout` seconds. Where a pair was not, or nobody could tell, all but the winner's votes count
    as the second's: several spellings of one wrong answer never make a margin. `policy`: as `correct` has it.
    """
    answers = [vote(trace, policy) for trace in traces]
    given = Counter(answer for answer in answers if answer is not None)
    if given.total() < votes:
        few = undecided("few_votes", f"{given.total()} of {len(traces)} samples vote")
        return [few] * len(traces)
    class_of, sure = classes(given, traces[0].answer_type, comparisons, timeout, policy)
    sizes = Counter[str]()
    for answer, number in given.items():
        sizes[class_of[answer]] += number
    lead, said = _lead(sizes, sure)
    ((winner, _),) = sizes.most_common(1)
    return [_finding(answer, class_of, winner if lead >= margin else None, said) for answer in answers]


def vote(trace: Trace, policy: Policy = DEFAULT) -> str | None:
    """The answer that a trace votes for; None where it does not vote."""
    if trace.finish_reason != "stop":  # cut off, what looks like an answer may be the start of one
        return None
    kind = trace.answer_type
    answer = judged_answer(trace.reference, trace.response, kind, policy)
    if answer is None or not is_answer(text := answer.text, kind, trace.reference):
        return None
    if kind != "json" and taken_back(statement(trace.response, answer)):
        return None
    if kind == "json" and is_several(text):
        return None
    if kind == "choice":
        return next((letter for letter in "ABCDEFGHIJ" if _says(letter, text, kind)), None)
    if kind == "yes_no":
        return next((word for word in ("yes", "no") if _says(word, text, kind)), None)
    if kind in ("math", "number") and is_prose(text):
        return in_prose(text)  # what a clause is about; where that is no number or formula, it says nothing
    return text


def _says(reference: str, text: str, kind: AnswerType) -> bool:
    return verify(reference, text, kind).outcome == "passed"


def classes(
    given: Counter[str],
    kind: AnswerType,
    comparisons: int = 32,
    timeout: float = 2.0,
    policy: Policy = DEFAULT,
) -> tuple[dict[str, str], bool]:
    """Each answer -> the one that stands for its class, the most frequent in it; and whether that is sure.

    given: answer -> how often it was voted for. The others: as `majority` takes them.
    """
    spell = _speller(kind, policy)
    answers: dict[str, str] = {}  # spelling -> the first answer so spelt, the most frequent first
    for answer, _ in given.most_common():
        answers.setdefault(spell(answer), answer)
    group, sure = list(range(len(answers))), True
    if kind in BY_VALUE:
        group, sure = _groups(list(answers.items()), kind, comparisons, timeout, policy)
    firsts = list(answers.values())
    stands_for = dict(zip(answers, (firsts[first] for first in group), strict=True))
    return {answer: stands_for[spell(answer)] for answer in given}, sure


def _speller(kind: AnswerType, policy: Policy) -> Callable[[str], str]:
    """What gives two texts one spelling that are the same without a doubt."""
    if kind == "json":  # in its strings every character counts
        return str.strip
    return fold if kind in BY_VALUE else partial(normalize_text, case_sensitive=policy.case_sensitive)


def _groups(
    answers: Sequence[tuple[str, str]], kind: AnswerType, comparisons: int, timeout: float, policy: Policy
) -> tuple[list[int], bool]:
    """For each spelling and answer the first that says the same; and whether every pair could be told."""
    group, sure = list(range(len(answers))), len(answers) <= SPELLINGS
    for i, j in sorted(combinations(range(min(len(answers), SPELLINGS)), 2), key=lambda pair: pair[1]):
        if group[i] == group[j]:
            continue
        same = _plainly(answers[i][0], answers[j][0], policy) if kind == "math" else None
        if same is None and comparisons > 0:
            comparisons -= kind == "math"  # the others never take long
            same = _same(answers[i][1], answers[j][1], kind, timeout, policy)
        if same:
            first, second = sorted((group[i], group[j]))
            group = [first if g == second else g for g in group]
        sure = sure and same is not None
    return group, sure


def _plainly(a: str, b: str, policy: Policy) -> bool | None:
    """As this process reads them; whichever of the two is the reference."""
    said = {compare(x, y, policy).same for x, y in ((a, b), (b, a))}
    return said.pop() if len(said) == 1 else None


def _same(a: str, b: str, kind: AnswerType, timeout: float, policy: Policy) -> bool | None:
    outcomes = {verify(x, y, kind, timeout=timeout, policy=policy).outcome for x, y in ((a, b), (b, a))}
    return None if len(outcomes) > 1 or "undecided" in outcomes else "passed" in outcomes


def _lead(sizes: Counter[str], sure: bool) -> tuple[float, str]:
    """How far the biggest class is ahead of the second, as a share of all votes; and that in words."""
    votes = sizes.total()
    first, second, *_ = [*sorted(sizes.values(), reverse=True), 0]
    lead = (first - (second if sure else votes - first)) / votes
    entropy = sum(n / votes * math.log(votes / n) for n in sizes.values())
    return lead, f"majority {first}/{votes}, margin {lead:.2f}, entropy {entropy:.2f} nats"


def _finding(answer: str | None, class_of: dict[str, str], winner: str | None, said: str) -> FilterResult:
    evidence = said if answer is None else f"{said}: {answer}"
    if winner is None:
        return undecided("no_majority", evidence)
    if answer is None:
        return failed("no_answer", evidence)
    return passed(evidence) if class_of[answer] == winner else failed("minority", evidence)
