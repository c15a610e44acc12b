r"""Majority vote for problems without a reference (self-consistency, Wang et al. 2022).

Answers are grouped into classes: 1/2 and 0.5 are one. Texts are equal if their words are, mathematical
answers if each is correct with the other as reference. Equality is transitive: an answer equal to two others
joins their classes. A trace votes if it finished, holds an answer (extracted as in `filters.rules.correct`)
and does not retract, deny or change it: "not \boxed{5}" and "-\boxed{5}" are no votes for 5. A majority is no
proof, so the evidence of every verdict tells the vote: "majority 6/8, margin 0.50, entropy 0.56 nats".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Annotated

from pydantic import Field

from filters.extract.candidates import is_answer
from filters.extract.context import is_qualified, is_retracted
from filters.extract.sentences import expression_in_sentence, is_prose
from filters.grade.compare import compare
from filters.grade.grader import COMPARED_BY_VALUE, grade_answer
from filters.grade.json_answer import is_several
from filters.policy import DEFAULT, Policy
from filters.result import FilterResult, failed, passed, undecided
from filters.rules.correct import answer_to_grade, statement_of
from filters.text.normalize import normalize, normalize_words
from pipeline.rows import AnswerType, Trace

MAX_SPELLINGS = 100  # compared with each other; any further one is a class of its own


def majority(
    traces: Sequence[Trace],
    *,
    margin: Annotated[float, Field(gt=0, le=1)] = 0.5,
    votes: Annotated[int, Field(ge=2)] = 4,
    comparisons: Annotated[int, Field(ge=0, le=10_000)] = 32,
    timeout: Annotated[float, Field(gt=0)] = 2.0,
    policy: Policy = DEFAULT,
) -> list[FilterResult]:
    """One result per sample of one problem, in order: whether it gives the majority's answer.

    Undecided with fewer than `votes` votes, or if the winner's share of the votes is less than `margin` above
    that of the second. At most `comparisons` pairs of answers that are more than plain numbers are compared,
    each in twice `timeout` seconds. If a pair is not compared or stays undecided, all votes but the winner's
    count as the second's, so that spellings of one wrong answer never create a margin. `policy`: as in
    `correct`.
    """
    tally = count_votes(traces, votes, comparisons, timeout, policy)
    if isinstance(tally, FilterResult):
        return [tally] * len(traces)
    winner = tally.winner if tally.lead >= margin else None
    return [_result(answer, tally.class_of, winner, tally.evidence) for answer in tally.answers]


@dataclass(frozen=True)
class Tally:
    """The votes of the samples of one problem."""

    answers: Sequence[str | None]  # of each sample; None if it does not vote
    class_of: Mapping[str, str]  # answer -> the most frequent answer of its class
    winner: str  # the most frequent answer of the largest class
    lead: float  # over the second class, as a share of all votes
    evidence: str

    @property
    def votes(self) -> int:
        return sum(answer is not None for answer in self.answers)

    @property
    def of_winner(self) -> list[int]:
        """The positions of the samples that vote for the winner."""
        return [i for i, a in enumerate(self.answers) if a is not None and self.class_of[a] == self.winner]


def count_votes(
    traces: Sequence[Trace], votes: int, comparisons: int = 32, timeout: float = 2.0, policy: Policy = DEFAULT
) -> Tally | FilterResult:
    """Counts the votes; undecided with fewer than `votes`. The arguments are those of `majority`."""
    answers = [vote(trace, policy) for trace in traces]
    given = Counter(answer for answer in answers if answer is not None)
    if given.total() < votes:
        return undecided("few_votes", f"{given.total()} of {len(traces)} samples vote")
    class_of, sure = classes(given, traces[0].answer_type, comparisons, timeout, policy)
    sizes = Counter[str]()
    for answer, number in given.items():
        sizes[class_of[answer]] += number
    lead, evidence = _lead(sizes, sure)
    ((winner, _),) = sizes.most_common(1)
    return Tally(answers, class_of, winner, lead, evidence)


def vote(trace: Trace, policy: Policy = DEFAULT) -> str | None:
    """The answer that a trace votes for; None if it does not vote."""
    if trace.finish_reason != "stop":  # a truncated answer may be the start of another
        return None
    kind = trace.answer_type
    answer = answer_to_grade(trace.reference, trace.response, kind, policy)
    if answer is None or not is_answer(text := answer.text, kind, trace.reference):
        return None
    if kind != "json":
        stated = statement_of(trace.response, answer, kind)
        if is_retracted(stated) or is_qualified(stated, text):
            return None
    if kind == "json" and is_several(text):
        return None
    if kind == "choice":
        return next((letter for letter in "ABCDEFGHIJ" if _equals(letter, text, kind)), None)
    if kind == "yes_no":
        return next((word for word in ("yes", "no") if _equals(word, text, kind)), None)
    if kind in ("math", "number") and is_prose(text):
        return expression_in_sentence(text)  # None if the sentence has no formula: no vote
    return text


def _equals(reference: str, text: str, kind: AnswerType) -> bool:
    return grade_answer(reference, text, kind).outcome == "passed"


def classes(
    given: Counter[str],
    kind: AnswerType,
    comparisons: int = 32,
    timeout: float = 2.0,
    policy: Policy = DEFAULT,
) -> tuple[dict[str, str], bool]:
    """Answer -> the most frequent answer of its class, and whether all pairs could be decided.

    `given`: answer -> its votes. The other arguments are those of `majority`.
    """
    spell = _speller(kind, policy)
    answers: dict[str, str] = {}  # spelling -> its most frequent answer, most frequent first
    for answer, _ in given.most_common():
        answers.setdefault(spell(answer), answer)
    class_ids, sure = list(range(len(answers))), True
    if kind in COMPARED_BY_VALUE:
        class_ids, sure = _class_ids(list(answers.items()), kind, comparisons, timeout, policy)
    first = list(answers.values())
    representative = dict(zip(answers, (first[i] for i in class_ids), strict=True))
    return {answer: representative[spell(answer)] for answer in given}, sure


def _speller(kind: AnswerType, policy: Policy) -> Callable[[str], str]:
    """The normalization under which equal texts are certainly the same answer."""
    if kind == "json":  # every character counts in its strings
        return str.strip
    if kind in COMPARED_BY_VALUE:
        return normalize
    return partial(normalize_words, case_sensitive=policy.case_sensitive)


def _class_ids(
    answers: Sequence[tuple[str, str]], kind: AnswerType, comparisons: int, timeout: float, policy: Policy
) -> tuple[list[int], bool]:
    """The class index of each answer, given with its spelling; False if any pair is undecided."""
    ids, sure = list(range(len(answers))), len(answers) <= MAX_SPELLINGS
    for i, j in sorted(combinations(range(min(len(answers), MAX_SPELLINGS)), 2), key=lambda pair: pair[1]):
        if ids[i] == ids[j]:
            continue
        same = _same_quickly(answers[i][0], answers[j][0], policy) if kind == "math" else None
        if same is None and comparisons > 0:
            comparisons -= kind == "math"  # other types are compared fast
            same = _same(answers[i][1], answers[j][1], kind, timeout, policy)
        if same:
            first, second = sorted((ids[i], ids[j]))
            ids = [first if k == second else k for k in ids]
        sure = sure and same is not None
    return ids, sure


def _same_quickly(a: str, b: str, policy: Policy) -> bool | None:
    """Compares both ways in this process; None if undecided."""
    same = {compare(x, y, policy).equal for x, y in ((a, b), (b, a))}
    return same.pop() if len(same) == 1 else None


def _same(a: str, b: str, kind: AnswerType, timeout: float, policy: Policy) -> bool | None:
    outcomes = {grade_answer(x, y, kind, timeout=timeout, policy=policy).outcome for x, y in ((a, b), (b, a))}
    return None if len(outcomes) > 1 or "undecided" in outcomes else "passed" in outcomes


def _lead(sizes: Counter[str], sure: bool) -> tuple[float, str]:
    """The lead of the largest class over the second as a share of all votes, and the evidence text."""
    votes = sizes.total()
    first, second, *_ = [*sorted(sizes.values(), reverse=True), 0]
    lead = (first - (second if sure else votes - first)) / votes
    entropy = sum(n / votes * math.log(votes / n) for n in sizes.values())
    return lead, f"majority {first}/{votes}, margin {lead:.2f}, entropy {entropy:.2f} nats"


def _result(
    answer: str | None, class_of: Mapping[str, str], winner: str | None, evidence: str
) -> FilterResult:
    evidence = evidence if answer is None else f"{evidence}: {answer}"
    if winner is None:
        return undecided("no_majority", evidence)
    if answer is None:
        return failed("no_answer", evidence)
    return passed(evidence) if class_of[answer] == winner else failed("minority", evidence)
