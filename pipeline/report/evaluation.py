"""The evaluation for people: a line a model, the student beside each other one, and problem by problem.

A problem counts as solved by a model that is right in at least half of its samples. Fixed by training is
one that the student solves and the base student did not, broken one the other way round.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.evaluate import metrics
from pipeline.filter.funnel import batches
from pipeline.inspect.run import Run
from pipeline.report import charts
from pipeline.report.sample import clip
from pipeline.rows import Score

FIXED, BROKEN, BOTH, NEITHER = "fixed", "broken", "solved by both", "solved by neither"
CHANGES = (FIXED, BROKEN, BOTH, NEITHER)
MOST = 1_500  # problems that are listed; what changed comes first
_QUESTION = 240  # characters


def answers_of(run: Run) -> dict[str, str]:
    """ "set/subject" -> the stage that holds its judged answers, for each that has some."""
    stages = sorted(
        str(p.parent.relative_to(run.path)) for p in run.path.glob("evaluate/**/filter/manifest.json")
    )
    named = {stage.removeprefix("evaluate/").removesuffix("/filter"): stage for stage in stages}
    return {name: stage for name, stage in named.items() if run.rows(stage).paths}


def models(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """The table: a row for each set and model, with estimates in per cent."""
    return [
        summary.model_dump()
        | {
            "pass_at": {k: percent(e) for k, e in summary.pass_at.items()},
            "majority": percent(summary.majority),
        }
        for summary in metrics.summarise(scores)
    ]


def differences(scores: Sequence[Score]) -> list[dict[str, Any]]:
    """The student less each other model, paired by problem, and what share of a teacher's score it keeps."""
    return [
        {
            "set": c.set,
            "other": c.other,
            "problems": c.problems,
            "difference": percent(c.difference),
            "retention": percent(c.retention) if c.retention else None,
            "said": c.verdict,
        }
        for c in metrics.comparisons(scores)
    ]


def changes(scores: Iterable[Score]) -> dict[tuple[str, str], str]:
    """(set, problem id) -> what training changed, for the problems of base and student."""
    solved = {(s.set, s.problem_id, s.model_role): 2 * s.correct >= s.samples for s in scores}
    found = {}
    for (set_name, problem, subject), student in solved.items():
        base = solved.get((set_name, problem, "base"))
        if subject == "student" and base is not None:
            same = BOTH if student else NEITHER
            found[set_name, problem] = same if student == base else FIXED if student else BROKEN
    return found


def problems(scores: Sequence[Score], questions: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Rows of the problem table: set, problem, question, reference, change, each model's right answers."""
    changed = changes(scores)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for s in scores:
        key = (s.set, s.problem_id)
        question, reference = questions.get(s.problem_id, ("", ""))
        row = rows.setdefault(
            key,
            {
                "set": s.set,
                "problem": s.problem_id,
                "question": question,
                "reference": reference,
                "change": changed.get(key, ""),
                "right": {},
            },
        )
        row["right"][s.model_role] = [s.correct, s.samples]
    order = [*CHANGES, ""]
    return sorted(rows.values(), key=lambda row: order.index(row["change"]))


def matrix(scores: Iterable[Score]) -> dict[str, Counter[str]]:
    """Set -> how many of its problems training changed in which way."""
    counted: dict[str, Counter[str]] = {}
    for (set_name, _), change in changes(scores).items():
        counted.setdefault(set_name, Counter())[change] += 1
    return counted


def questions_of(paths: Sequence[Path], wanted: set[str]) -> dict[str, tuple[str, str]]:
    """Problem id -> question and reference, clipped, of those wanted."""
    found: dict[str, tuple[str, str]] = {}
    for batch in batches(paths, ("problem_id", "question", "reference"), size=256):
        for row in batch.to_pylist():
            if row["problem_id"] in wanted and row["problem_id"] not in found:
                said = (clip(row["question"], _QUESTION) or "", clip(row["reference"], _QUESTION) or "")
                found[row["problem_id"]] = said
    return found


def percent(estimate: Sequence[float]) -> tuple[float, ...]:
    return tuple(100 * x for x in estimate)


def gather(run: Run, scores: Sequence[Score]) -> dict[str, Any]:
    table, paired = models(scores), differences(scores)
    several = len({row["set"] for row in table}) > 1
    drawn = [
        dict(zip(("mean", "low", "high"), row["pass_at"][1], strict=True))
        | {"name": f"{row['set']}: {row['subject']}" if several else row["model_role"]}
        for row in table
    ]
    apart = [
        dict(zip(("mean", "low", "high"), row["difference"], strict=True))
        | {"name": f"{row['set']}: student - {row['other']}" if several else f"student - {row['other']}"}
        for row in paired
    ]
    return {
        "rows": table,
        "ks": sorted({k for row in table for k in row["pass_at"] if k > 1}),
        "chart": charts.intervals(drawn, "pass@1, per cent, with 95 % intervals"),
        "paired": paired,
        "differences": charts.intervals(apart, "points of pass@1", zero=True) if apart else None,
        "changes": matrix(scores),
        "names": CHANGES,
        "trained_on": run.report("evaluate").get("trained_on", {}),
    }
