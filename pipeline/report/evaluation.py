"""The part of a report on the evaluation: models side by side, the student against each, problem by problem.

A model solves a problem when at least half of its samples are correct. Training fixed a problem that the
student solves and the base does not, and broke one that only the base solves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from pipeline.evaluate import metrics
from pipeline.evaluate.bootstrap import Estimate
from pipeline.inference import engines
from pipeline.inspect import score_table
from pipeline.inspect.compression import Compression, compression_of
from pipeline.inspect.format import clip
from pipeline.inspect.run import Run
from pipeline.inspect.table import RowTable
from pipeline.model_rows import Score
from pipeline.report import charts
from pipeline.rows import Trace

FIXED, BROKEN, BOTH, NEITHER = "fixed", "broken", "solved by both", "solved by neither"
CHANGES = (FIXED, BROKEN, BOTH, NEITHER)
MOST = 1_500  # problems that are listed; those that changed come first
PASSED = "pass@1, percent, with 95 % intervals"
_QUESTION = 240  # characters
_QUESTIONS = """
select problem_id, any_value(question), any_value(reference)
from rows where list_contains($wanted, problem_id) group by problem_id
"""


def gather(run: Run, scores: Sequence[Score]) -> dict[str, Any]:
    """The tables and charts, by the names that the template uses."""
    summaries, comparisons = metrics.summarise(scores), metrics.comparisons(scores)
    several = len({s.set for s in summaries}) > 1
    passed = [_interval(s.set, s.model_role, s.pass_at[1], several) for s in summaries]
    compression = compression_of(run, summaries)
    apart = [_interval(c.set, f"student - {c.other}", c.difference, several) for c in comparisons]
    return {
        "summaries": summaries,
        "modes": any(s.mode == "plain" for s in summaries),
        "ks": sorted({k for s in summaries for k in s.pass_at if k > 1}),
        "chart": charts.intervals(passed, PASSED),
        "comparisons": comparisons,
        "lost": metrics.lost_sentence(comparisons),
        "differences": charts.intervals(apart, "points of pass@1", zero=True) if apart else None,
        "changes": matrix(scores),
        "names": CHANGES,
        "compression": compression,
        "drafts": score_table.drafts_of(run),
        "sizes": _sizes(compression, several) if compression else None,
        "trained_on": run.report("evaluate").get("trained_on", {}),
        "engines": engines.lines(score_table.engines_of(run)),
    }


def chart(students: Iterable[tuple[str, Estimate]]) -> Markup:
    """The chart of the students of several runs on one set."""
    return charts.intervals([_interval("", name, passed, False) for name, passed in students], PASSED)


def answers_of(run: Run) -> dict[str, str]:
    """ "set/model" -> the stage that holds its graded answers."""
    named = {f"{path.set}/{path.role}": str(path) for path in run.begun("filter")}
    return {name: stage for name, stage in named.items() if run.rows(stage).parts}


def changes(scores: Iterable[Score]) -> dict[tuple[str, str], str]:
    """(set, problem id) -> the change by training, for problems that base and student answered."""
    solved = {(s.set, s.problem_id, s.model_role): 2 * s.correct >= s.samples for s in scores}
    found = {}
    for (set_name, problem, role), student in solved.items():
        base = solved.get((set_name, problem, "base"))
        if role == "student" and base is not None:
            same = BOTH if student else NEITHER
            found[set_name, problem] = same if student == base else FIXED if student else BROKEN
    return found


def problems(scores: Sequence[Score], questions: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Rows of the table of problems; `correct`: model -> its correct samples and all its samples."""
    changed = changes(scores)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for s in scores:
        question, reference = questions.get(s.problem_id, ("", ""))
        key = s.set, s.problem_id
        row: dict[str, Any] = {"set": s.set, "problem": s.problem_id, "change": changed.get(key, "")}
        row |= {"question": question, "reference": reference, "correct": {}}
        rows.setdefault(key, row)["correct"][s.model_role] = [s.correct, s.samples]
    order = [*CHANGES, ""]
    return sorted(rows.values(), key=lambda row: order.index(row["change"]))


def matrix(scores: Iterable[Score]) -> dict[str, Counter[str]]:
    """Set -> number of its problems by change."""
    counted: dict[str, Counter[str]] = {}
    for (set_name, _), change in changes(scores).items():
        counted.setdefault(set_name, Counter())[change] += 1
    return counted


def questions_of(answers: Iterable[RowTable[Trace]], wanted: set[str]) -> dict[str, tuple[str, str]]:
    """Problem id -> question and reference, clipped."""
    columns, ids = ("problem_id", "question", "reference"), sorted(wanted)
    found = (row for rows in answers for row in rows.query(columns, _QUESTIONS, wanted=ids))
    return {id: (clip(text, _QUESTION) or "", clip(known, _QUESTION) or "") for id, text, known in found}


def _sizes(compression: Compression, several: bool) -> Markup | None:
    """The chart of size and quality; None if no size is known."""
    values = [
        _interval(m.set, m.model_role, m.pass_at_1, several) | {"megabytes": m.bytes / 1e6}
        for m in compression.models
        if m.bytes is not None
    ]
    return charts.sizes(values) if values else None


def _interval(set_name: str, name: str, estimate: Estimate, several: bool) -> dict[str, Any]:
    """A row of an interval chart, in percent; with `several` sets the name starts with the set."""
    mean, low, high = (100 * x for x in estimate)
    return {"name": f"{set_name}: {name}" if several else name, "mean": mean, "low": low, "high": high}
