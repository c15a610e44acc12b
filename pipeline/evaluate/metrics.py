"""Computes scores from filtered traces: pass@1, pass@k, majority, differences and retention, with intervals.

Pure functions over traces and scores. `bootstrap.py` makes the intervals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from filters.dataset.majority import classes, vote
from filters.policy import DEFAULT, Policy
from pipeline.evaluate import bootstrap
from pipeline.evaluate.bootstrap import Estimate, Floats
from pipeline.model_rows import Mode, Score
from pipeline.rows import Row, Trace

COMPRESSED = "student-"  # begins the role of a compressed student; its scheme follows
FORM = ("single_reasoning", "final_answer")  # a trace that fails one of these rules untruncated is malformed


class Summary(Row):
    """One line of the evaluation table: one model on one set. Shares are of all samples."""

    set: str
    model_role: str
    model: str
    prompt: str
    problems: int
    samples: int
    pass_at: dict[int, Estimate]  # k -> pass@k; k = 1, 2, 4, 8, ... up to the samples that every problem has
    majority: Estimate  # over all samples of a problem
    truncated: float
    malformed: float
    undecided: float
    failed: float
    tokens: float | None  # mean completion tokens of an answer; None without any, or if not all were counted
    mode: Mode = "reasoning"
    obedient: float | None = None  # of the answers, those that reason or do not, as asked; None: not counted


class Comparison(Row):
    """The student against another model on one set, over the problems that both have.

    Of a compressed student the difference is its own pass@1 minus that of the whole one.
    """

    set: str
    other: str
    problems: int
    difference: Estimate  # of pass@1
    retention: Estimate | None  # the student's pass@1 as a share of a teacher's; None for other models

    @property
    def verdict(self) -> str:
        """Whether the interval of the difference shows the student to be better or worse."""
        low, high = self.difference.low, self.difference.high
        return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def score(
    set_name: str,
    role: str,
    model: str,
    traces: Sequence[Trace],
    mode: Mode = "reasoning",
    policy: Policy = DEFAULT,
) -> Score:
    """The score of one problem, from all of its filtered traces. `policy`: that of the rule `correct`."""
    outcomes = [_correct(trace) for trace in traces]
    first = traces[0]
    return Score(
        id=f"{set_name}/{role}/{first.problem_id}",
        set=set_name,
        model_role=role,
        model=model,
        prompt=first.prompt or "",
        problem_id=first.problem_id,
        source=first.source,
        samples=len(traces),
        correct=outcomes.count("passed"),
        majority=majority(traces, policy),
        undecided=outcomes.count("undecided"),
        truncated=sum(t.finish_reason == "length" for t in traces),
        malformed=sum(_malformed(t) for t in traces),
        failed=sum(t.finish_reason == "failed" for t in traces),
        completion_tokens=_tokens(traces),
        mode=mode,
        with_reasoning=sum(bool((t.reasoning or "").strip()) for t in traces),
    )


def _correct(trace: Trace) -> str:
    return next((v.outcome for v in trace.verdicts if v.filter == "correct"), "undecided")


def _malformed(trace: Trace) -> bool:
    if trace.finish_reason in ("length", "failed"):
        return False
    return any(v.outcome == "failed" and v.filter in FORM for v in trace.verdicts)


def _tokens(traces: Sequence[Trace]) -> int | None:
    counts = [t.completion_tokens for t in traces if t.finish_reason != "failed"]
    return None if None in counts else sum(count or 0 for count in counts)


def majority(traces: Sequence[Trace], policy: Policy = DEFAULT) -> float:
    """Whether the answer given by most samples of a problem is correct: 0 to 1 (Wang et al. 2022).

    Votes are counted by equivalence class (1/2 and 0.5 are one class); classes with equally many votes share
    the score. A class is as correct as its votes, which is 0 or 1 unless some are undecided. A sample without
    an answer has no vote; without any vote the score is 0. `policy`: as in `correct`.
    """
    votes = [(answer, _correct(t) == "passed") for t in traces if (answer := vote(t, policy)) is not None]
    if not votes:
        return 0.0
    class_of, _ = classes(Counter(answer for answer, _ in votes), traces[0].answer_type, policy=policy)
    sizes = Counter(class_of[answer] for answer, _ in votes)
    correct = Counter(class_of[answer] for answer, passed in votes if passed)
    most = max(sizes.values())
    winners = [c for c, size in sizes.items() if size == most]
    return sum(correct[c] / most for c in winners) / len(winners)


def pass_at_k(samples: Sequence[int], correct: Sequence[int], k: int) -> Floats:
    """The probability that one of k samples is correct, given n samples with c correct: shape (problems,).

    Unbiased: 1 - C(n - c, k) / C(n, k), as a product (Chen et al. 2021, arXiv 2107.03374). Needs n >= k.
    """
    n, c = np.asarray(samples, dtype=float), np.asarray(correct, dtype=float)
    all_incorrect = np.ones_like(n)
    for i in range(k):
        all_incorrect *= np.maximum(n - c - i, 0) / (n - i)
    return 1 - all_incorrect


def ks(samples: Sequence[int]) -> list[int]:
    """The k of pass@k: 1, 2, 4, 8, ... up to the samples that every problem has."""
    return [2**i for i in range(min(samples).bit_length())]


def trained_on(set_name: str, problems: int) -> str:
    """The warning for a set that overlaps with the training data."""
    return f"{problems} problems of the set {set_name!r} were trained on: their scores mean little"


def summarise(scores: Iterable[Score]) -> list[Summary]:
    """One line per set and model role, in the order of the scores."""
    return [_summary(rows) for roles in by_set(scores).values() for rows in roles.values()]


def by_set(scores: Iterable[Score]) -> dict[str, dict[str, list[Score]]]:
    """Set -> model role -> scores, in the order of the scores."""
    groups: dict[str, dict[str, list[Score]]] = {}
    for s in scores:
        groups.setdefault(s.set, {}).setdefault(s.model_role, []).append(s)
    return groups


def comparisons(scores: Iterable[Score]) -> list[Comparison]:
    """The student against every other model, set by set; [] without a student. Plain answers stay out."""
    scores = [s for s in scores if s.mode == "reasoning"]
    return [
        _comparison(roles["student"], others)
        for roles in by_set(scores).values()
        if "student" in roles
        for role, others in sorted(roles.items())
        if role != "student" and not role.startswith(COMPRESSED)
    ]


def compressed(scores: Iterable[Score]) -> list[Comparison]:
    """Every compressed student against the whole one, set by set, in the order of the scores."""
    return [
        _comparison(own, roles["student"]).model_copy(update={"other": role, "retention": None})
        for roles in by_set(scores).values()
        if "student" in roles
        for role, own in roles.items()
        if role.startswith(COMPRESSED)
    ]


def lost(found: Iterable[Comparison]) -> list[Comparison]:
    """The sets on which the student is worse than the base: what the training lost."""
    return [c for c in found if c.other == "base" and c.verdict == "worse"]


def lost_sentence(found: Sequence[Comparison]) -> str:
    """What the training lost, in a sentence; "" where fewer than two sets were compared with the base."""
    if sum(c.other == "base" for c in found) < 2:
        return ""
    sets = ", ".join(f"{c.set} ({100 * c.difference.mean:+.1f} points)" for c in lost(found))
    return f"lost by training: {sets or 'nothing that these sets show'}"


def paired(scores: Sequence[Score], others: Sequence[Score]) -> tuple[Floats, Floats]:
    """pass@1 of two models over the problems that both have: two arrays (problems,)."""
    other = {s.problem_id: s.correct / s.samples for s in others}
    both = [s for s in scores if s.problem_id in other]
    return np.array([s.correct / s.samples for s in both]), np.array([other[s.problem_id] for s in both])


def _comparison(student: Sequence[Score], others: Sequence[Score]) -> Comparison:
    own, theirs = paired(student, others)
    role = others[0].model_role
    return Comparison(
        set=others[0].set,
        other=role,
        problems=len(own),
        difference=bootstrap.mean(own - theirs, least=-1),
        retention=bootstrap.ratio(own, theirs) if role.startswith("teacher") else None,
    )


def _obedient(rows: Sequence[Score]) -> float | None:
    """The share of the answers that reason, or for plain ones that do not; None if unknown."""
    answers, reasoned = sum(s.samples - s.failed for s in rows), [s.with_reasoning for s in rows]
    if not answers or None in reasoned:
        return None
    share = sum(count or 0 for count in reasoned) / answers
    return share if rows[0].mode == "reasoning" else 1 - share


def _summary(rows: list[Score]) -> Summary:
    samples, correct = [s.samples for s in rows], [s.correct for s in rows]
    columns = [pass_at_k(samples, correct, k) for k in ks(samples)] + [np.array([s.majority for s in rows])]
    *pass_at, majority_estimate = bootstrap.means(np.stack(columns, axis=1))

    def per_sample(field: str) -> float:
        return float(sum(getattr(s, field) for s in rows) / sum(samples))

    answers = sum(s.samples - s.failed for s in rows)
    tokens = [s.completion_tokens for s in rows]
    return Summary(
        set=rows[0].set,
        model_role=rows[0].model_role,
        model=rows[0].model,
        prompt=rows[0].prompt,
        problems=len(rows),
        samples=sum(samples),
        pass_at=dict(zip(ks(samples), pass_at, strict=True)),
        majority=majority_estimate,
        tokens=sum(n or 0 for n in tokens) / answers if answers and None not in tokens else None,
        mode=rows[0].mode,
        obedient=_obedient(rows),
        **{field: per_sample(field) for field in ("truncated", "malformed", "undecided", "failed")},
    )
