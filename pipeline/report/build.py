"""Gathers the parts of a report from a run's folder and writes it. A part that does not exist yet is None.

Everything is read as it is now: sealed shards, manifests, events, usage, logs. Nothing is locked, so the run
may be working meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline import __version__, install_hints
from pipeline.config.redaction import redact
from pipeline.engine.atomic_files import write_atomic
from pipeline.errors import UserError
from pipeline.inspect import chain_table
from pipeline.inspect.run import Run
from pipeline.inspect.teachers import teachers_of
from pipeline.model_rows import Score
from pipeline.report import about, curves, evaluation, page, sample, yields
from pipeline.report.tally import tally
from pipeline.select.stage import LEFT_OUT

ANSWERS = 4  # in the browser, of each source, outcome and reason of an evaluated model
CHANGED = 24  # problems that training fixed, and that it broke, with answers in the browser


def write_report(run: Run, out: Path) -> Path:
    """Writes the report of a run. Raises UserError when a package is missing or `out` cannot be a file."""
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
    """The parts of the page, by the names that its template uses."""
    filtered = _trace_stage(run) == "filter"
    traces = tally(run.traces)
    scores = list(run.scores)
    problems = evaluation.problems(scores, _questions(run, scores))
    stages, examples = about.stages(run), run.report("select")
    return {
        "name": run.recipe.run,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "settings": about.settings(run),
        "recipe": redact(run.recipe.model_dump(mode="json", exclude_defaults=True)),
        "stages": stages,
        "filtered": filtered,
        "so_far": run.so_far(),
        "funnel": yields.funnel(run) if filtered else None,
        "difficulty": yields.difficulty(traces) if filtered else None,
        "lengths": yields.lengths(traces),
        "sources": yields.sources(traces) if traces.traces else None,
        "hits": yields.hits(run) if filtered else None,
        "diversity": yields.diversity(run),
        "costs": about.cost(run, stages),
        "teachers": teachers_of(run) if run.trace_scores.parts else None,
        "examples": examples,
        "left_out": [(what, examples.get(name, 0)) for name, what in LEFT_OUT.items()],
        "preflight": about.preflight(run),
        "training": curves.training(run),
        "evaluation": evaluation.gather(run, scores) if scores else None,
        "chain": _chain(run) if run.recipe.chain else None,
        "data": {
            "traces": _sample(run, scores),
            "problems": problems[: evaluation.MOST],
            "unlisted": max(0, len(problems) - evaluation.MOST),
        },
    }


def _chain(run: Run) -> dict[str, Any]:
    """The steps of a chain: the table of the terminal, and a chart of their students for each set."""
    steps = chain_table.steps_of(run.recipe, run.path.parent)
    scored = [(step, score) for step in steps for score in step.scores]
    return {
        "columns": chain_table.COLUMNS,
        "rows": chain_table.rows(steps),
        "lines": list(chain_table.lines(run.recipe, steps)),
        "charts": {
            name: evaluation.chart((step.run, score.pass_at_1) for step, score in scored if score.set == name)
            for name in dict.fromkeys(score.set for _, score in scored)
        },
    }


def _trace_stage(run: Run) -> str:
    """What the report calls its traces: of filter as soon as that has a sealed shard."""
    return "filter" if run.rows("filter").parts else "generate"


def _questions(run: Run, scores: Sequence[Score]) -> dict[str, tuple[str, str]]:
    answers = [run.rows(stage) for stage in evaluation.answers_of(run).values()]
    return evaluation.questions_of(answers, {s.problem_id for s in scores})


def _sample(run: Run, scores: Sequence[Score]) -> list[dict[str, Any]]:
    """Traces of generate or filter first, then answers of the evaluation, also those to changed problems."""
    traces, answers = _trace_stage(run), evaluation.answers_of(run)
    tables = {traces: run.traces} | {stage: run.rows(stage) for stage in answers.values()}
    most = {traces: sample.EACH} | dict.fromkeys(answers.values(), ANSWERS)
    groups = [sample.strata(stage, tables[stage], each) for stage, each in most.items()]
    first = [
        place
        for set_name, ids in _changed_problems(scores).items()
        for role in ("base", "student")
        if (stage := answers.get(f"{set_name}/{role}"))
        for place in sample.first_of(stage, tables[stage], ids)
    ]
    shown = sample.read(tables, sample.pick(first, groups))
    return sorted(shown, key=lambda trace: trace["stage"] != traces)


def _changed_problems(scores: Sequence[Score]) -> dict[str, set[str]]:
    """Set -> ids of the first problems that training fixed, and that it broke."""
    found: dict[str, set[str]] = {}
    changes = evaluation.changes(scores)
    for kind in (evaluation.FIXED, evaluation.BROKEN):
        for set_name, problem in [key for key, change in changes.items() if change == kind][:CHANGED]:
            found.setdefault(set_name, set()).add(problem)
    return found
