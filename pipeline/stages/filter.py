"""filter: every rule says its verdict on every trace. Nothing is taken away: the rejected stay, with why."""

from __future__ import annotations

from collections import Counter
from typing import Any

import filters
from pipeline.config import Recipe
from pipeline.rows import Trace
from pipeline.stage import Job, Stage


def settings(recipe: Recipe) -> dict[str, Any]:
    """The rules, their parameters and their versions."""
    return {"rules": filters.versions(recipe.filter.rules)}


def run(job: Job) -> dict[str, Any]:
    """Judge every trace; the report is the funnel: traces in, kept, cannot tell, rejected by first reason."""
    (reads,) = job.stage.reads
    with job.progress(job.inputs[reads].counts().rows) as progress:
        for traces, judged in job.pairs():
            if not judged.sealed:
                rows = []
                for trace in traces.rows():
                    rows.append(filters.judge(trace, job.recipe.filter.rules))
                    progress.update(done=1)
                job.output.write(judged.name, rows)
    return funnel(job.output.rows())


def funnel(traces: Any) -> dict[str, Any]:
    """Counts that add up: in = kept + unknown + rejected, each trace under the first rule that said so."""
    outcomes: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    for trace in traces:
        outcomes[trace.outcome] += 1
        if trace.outcome == "rejected":
            rejected[_first(trace, "fail")] += 1
        elif trace.outcome == "unknown":
            unknown[_first(trace, "unknown")] += 1
    return {
        "in": outcomes.total(),
        "kept": outcomes["kept"],
        "rejected": dict(rejected.most_common()),
        "unknown": dict(unknown.most_common()),
    }


def _first(trace: Trace, outcome: str) -> str:
    return next(f"{v.filter}: {v.reason}" for v in trace.verdicts if v.outcome == outcome)


def _check(recipe: Recipe) -> None:
    filters.check_rules(recipe.filter.rules)


def judging(name: str, reads: str) -> Stage:
    """A stage that judges the traces of another one."""
    return Stage(
        name=name,
        version=1,
        row=Trace,
        mirrors=reads,
        reads=(reads,),
        settings=settings,
        check=_check,
        run=run,
    )


FILTER = judging("filter", "generate")
