"""From judged traces to the table: pass@1, pass@k, majority, differences, retention, each with its interval.

Pure functions over traces and scores. Leaves out how an interval is made (intervals.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from filters.dataset.majority import classes, vote
from pipeline.evaluate import bootstrap
from pipeline.evaluate.bootstrap import Estimate, Floats
from pipeline.rows import Row, Score, Trace

FORM = (
    "single_reasoning",
    "final_answer",
)  # a trace that fails one of these and was not cut off is malformed


class Summary(Row):
    """One line of the evaluation's table: one model on one set. Shares are of all samples."""

    set: str
    model_role: str
    model: str
    prompt: str
    problems: int
    samples: int
    pass_at: dict[int, Estimate]  # k -> pass@k; k = 1, 2, 4, 8, ... as far as every problem has samples
    majority: Estimate  # of all samples of a problem
    truncated: float
    malformed: float
    unknown: float
    failed: float
    tokens: float | None  # completion tokens an answer, mean; None where not all were counted


class Comparison(Row):
    """The student beside another model on one set, over the problems of both."""

    set: str
    other: str
    problems: int
    difference: Estimate  # of pass@1
    retention: Estimate | None  # the student's pass@1 as a share of a teacher's; None beside others

    @property
    def verdict(self) -> str:
        """What the interval of the difference says of the student: better, worse or not told apart."""
        low, high = self.difference.low, self.difference.high
        return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def score(set_name: str, subject: str, model: str, traces: Sequence[Trace]) -> Score:
    """The score of one problem from all of its judged traces."""
    failing = [{v.filter for v in t.verdicts if v.outcome == "failed"} for t in traces]
    correct = [_correct(trace) for trace in traces]
    first = traces[0]
    return Score(
        id=f"{set_name}/{subject}/{first.problem_id}",
        set=set_name,
        model_role=subject,
        model=model,
        prompt=first.prompt,
        problem_id=first.problem_id,
        source=first.source,
        samples=len(traces),
        correct=correct.count("passed"),
        majority=majority(traces),
        unknown=correct.count("undecided"),
        truncated=sum(t.finish_reason == "length" for t in traces),
        malformed=sum(
            t.finish_reason not in ("length", "failed") and bool(f & set(FORM))
            for t, f in zip(traces, failing, strict=True)
        ),
        failed=sum(t.finish_reason == "failed" for t in traces),
        completion_tokens=_tokens(traces),
    )


def _tokens(traces: Sequence[Trace]) -> int | None:
    counts = [t.completion_tokens for t in traces if t.finish_reason != "failed"]
    return None if None in counts else sum(count or 0 for count in counts)


def _correct(trace: Trace) -> str:
    return next((v.outcome for v in trace.verdicts if v.filter == "correct"), "undecided")


def majority(traces: Sequence[Trace]) -> float:
    """Whether the answer that most samples of one problem give is right: 0 to 1 (Wang et al. 2022).

    Answers are counted by class: 1/2 and 0.5 are one. Of classes given equally often each has an equal part.
    A class is as right as its votes were judged, which is 0 or 1 but where the judge could not tell of some.
    A sample without an answer does not vote; where none votes, nothing is right.
    """
    voted = [(answer, _correct(t) == "passed") for t in traces if (answer := vote(t)) is not None]
    if not voted:
        return 0.0
    class_of, _ = classes(Counter(answer for answer, _ in voted), traces[0].answer_type)
    sizes = Counter(class_of[answer] for answer, _ in voted)
    right = Counter(class_of[answer] for answer, passed in voted if passed)
    most = max(sizes.values())
    winners = [c for c, size in sizes.items() if size == most]
    return sum(right[c] / most for c in winners) / len(winners)


def pass_at_k(samples: Sequence[int], correct: Sequence[int], k: int) -> Floats:
    """For each problem the chance that one of k samples is right, of n drawn and c right: shape (problems,).

    Unbiased: 1 - C(n - c, k) / C(n, k), as a product (Chen et al. 2021, arXiv 2107.03374). No n is below k.
    """
    n, c = np.asarray(samples, dtype=float), np.asarray(correct, dtype=float)
    wrong = np.ones_like(n)  # the chance that none of those drawn so far is right
    for drawn in range(k):
        wrong *= np.maximum(n - c - drawn, 0) / (n - drawn)
    return 1 - wrong


def ks(samples: Sequence[int]) -> list[int]:
    """The k of pass@k: 1, 2, 4, 8, ... as far as every problem has so many samples."""
    return [2**i for i in range(min(samples).bit_length())]


def trained_on(set_name: str, problems: int) -> str:
    """What to say of a set that the student was trained on."""
    return f"{problems} problems of the set {set_name!r} were trained on: of these the scores say little"


def summarise(scores: Iterable[Score]) -> list[Summary]:
    """One line for each set and subject, in the order in which they come."""
    return [_summary(rows) for subjects in by_set(scores).values() for rows in subjects.values()]


def by_set(scores: Iterable[Score]) -> dict[str, dict[str, list[Score]]]:
    """Set -> subject -> its scores, in the order in which they come."""
    found: dict[str, dict[str, list[Score]]] = {}
    for s in scores:
        found.setdefault(s.set, {}).setdefault(s.model_role, []).append(s)
    return found


def comparisons(scores: Iterable[Score]) -> list[Comparison]:
    """The student beside every other model, set by set; nothing where there is no student."""
    return [
        _comparison(subjects["student"], others)
        for subjects in by_set(scores).values()
        if "student" in subjects
        for name, others in sorted(subjects.items())
        if name != "student"
    ]


def paired(scores: Sequence[Score], others: Sequence[Score]) -> tuple[Floats, Floats]:
    """pass@1 of two models by problem, over the problems of both: each of shape (problems,)."""
    other = {s.problem_id: s.correct / s.samples for s in others}
    both = [s for s in scores if s.problem_id in other]
    return np.array([s.correct / s.samples for s in both]), np.array([other[s.problem_id] for s in both])


def _comparison(student: Sequence[Score], others: Sequence[Score]) -> Comparison:
    own, theirs = paired(student, others)
    name = others[0].model_role
    return Comparison(
        set=others[0].set,
        other=name,
        problems=len(own),
        difference=bootstrap.mean(own - theirs, least=-1),
        retention=bootstrap.ratio(own, theirs) if name.startswith("teacher") else None,
    )


def _summary(rows: list[Score]) -> Summary:
    each, right = [s.samples for s in rows], [s.correct for s in rows]
    columns = [pass_at_k(each, right, k) for k in ks(each)] + [np.array([s.majority for s in rows])]
    *pass_at, most = bootstrap.means(np.stack(columns, axis=1))

    def share(field: str) -> float:
        return float(sum(getattr(s, field) for s in rows) / sum(each))

    return Summary(
        set=rows[0].set,
        model_role=rows[0].model_role,
        model=rows[0].model,
        prompt=rows[0].prompt,
        problems=len(rows),
        samples=sum(each),
        pass_at=dict(zip(ks(each), pass_at, strict=True)),
        majority=most,
        truncated=share("truncated"),
        malformed=share("malformed"),
        unknown=share("undecided"),
        failed=share("failed"),
        tokens=None if any(s.completion_tokens is None for s in rows) else share("completion_tokens"),
    )
