"""Gathers what a run's folder says, part by part, and writes the report. What is not there yet is None.

Everything is read from the folder, as it is now: sealed shards, manifests, events, ledgers, logs. Nothing
is locked, so a run may be at work meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline import __version__, install_hints
from pipeline.config.redaction import shareable
from pipeline.engine.atomic_files import write_atomic
from pipeline.errors import UserError
from pipeline.inspect.run import Run
from pipeline.report import about, curves, evaluation, page, sample, yields
from pipeline.report.tally import tally
from pipeline.rows import Score
from pipeline.select.stage import LEFT_OUT

ANSWERS = 4  # of each source, outcome and reason of a model under evaluation that are in the browser
LOOKED_AT = 24  # problems that training fixed, and that it broke, whose answers are in the browser


def write_report(run: Run, out: Path) -> Path:
    """Write the report of a run. Raises UserError where a package is missing, or `out` is no place for it."""
    check()
    if not out.parent.is_dir():
        raise UserError(f"{out}: there is no folder {out.parent}")
    if out.is_dir():
        raise UserError(f"{out} is a folder: name a file, such as --out {out}/report.html")
    write_atomic(out, page.render(gather(run)).encode())
    return out


def check() -> None:
    """Raises UserError when the package that draws the charts is missing."""
    if find_spec("vl_convert") is None:
        raise UserError(f"the report's charts need vl-convert-python: {install_hints.extra('report')}")


def gather(run: Run) -> dict[str, Any]:
    """What the page shows, by the names that its template uses."""
    judged = bool(run.rows("filter").paths)
    traces = tally(run.rows("filter" if judged else "generate").paths)
    scores = list(run.scores) if run.rows("evaluate").paths else []
    problems = evaluation.problems(scores, _questions(run, scores))
    data = {
        "traces": _sample(run, scores),
        "problems": problems[: evaluation.MOST],
        "unlisted": max(0, len(problems) - evaluation.MOST),
    }
    stages, examples = about.stages(run), run.report("select")
    return {
        "name": run.recipe.run,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "settings": about.settings(run),
        "recipe": shareable(run.recipe.model_dump(mode="json", exclude_defaults=True)),
        "stages": stages,
        "traces": traces.traces,
        "judged": judged,
        "funnel": yields.funnel(run) if judged else None,
        "difficulty": yields.difficulty(traces) if judged else None,
        "lengths": yields.lengths(traces),
        "sources": yields.sources(traces) if traces.traces else None,
        "hits": yields.hits(run) if judged else None,
        "costs": about.cost(run, stages),
        "examples": examples,
        "left_out": [(what, examples.get(name, 0)) for name, what in LEFT_OUT.items()],
        "preflight": about.preflight(run),
        "training": curves.training(run),
        "evaluation": evaluation.gather(run, scores) if scores else None,
        "data": data,
    }


def _questions(run: Run, scores: Sequence[Score]) -> dict[str, tuple[str, str]]:
    paths = [path for stage in evaluation.answers_of(run).values() for path in run.rows(stage).paths]
    return evaluation.questions_of(paths, {s.problem_id for s in scores}) if scores else {}


def _sample(run: Run, scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Traces of generate or filter, and answers of the evaluation, those to changed problems among them."""
    training = "filter" if run.rows("filter").paths else "generate"
    answers = evaluation.answers_of(run)
    each = {training: sample.EACH} | dict.fromkeys(answers.values(), ANSWERS)
    groups = [sample.strata(stage, run.rows(stage).paths, most) for stage, most in each.items()]
    wanted: dict[str, set[str]] = {}
    changed = evaluation.changes(scores)
    for kind in (evaluation.FIXED, evaluation.BROKEN):
        for set_name, problem in [key for key, change in changed.items() if change == kind][:LOOKED_AT]:
            wanted.setdefault(set_name, set()).add(problem)
    first = [
        place
        for set_name, ids in wanted.items()
        for subject in ("base", "student")
        if (stage := answers.get(f"{set_name}/{subject}"))
        for place in sample.places_of(stage, run.rows(stage).paths, ids)
    ]
    shown = sample.read(sample.pick(first, groups))
    return sorted(shown, key=lambda trace: trace["stage"] != training)
