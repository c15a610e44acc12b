"""filter: every rule says its verdict on every trace. Nothing is taken away: the rejected stay, with why."""

from __future__ import annotations

from typing import Any

import filters
from pipeline.config import Recipe
from pipeline.errors import UserError
from pipeline.funnel import Funnel, funnel
from pipeline.judging import Judges, judge_shards
from pipeline.rows import Trace
from pipeline.stage import Job, Stage

FEW = 50  # traces of which no rule can be said to reject nearly all


def settings(recipe: Recipe) -> dict[str, Any]:
    """The rules, their parameters and their versions."""
    return {"rules": filters.versions(recipe.filter.rules)}


def run(job: Job) -> dict[str, Any]:
    """Judge every trace; the report is the funnel."""
    (reads,) = job.stage.reads
    with job.progress(job.inputs[reads].counts().rows) as progress:
        judge_shards(Judges(job.recipe.filter.rules), job.pairs(), lambda n: progress.update(done=n))
    counted = funnel([shard.path for shard in job.output.shards()])
    if job.stage.name == FILTER.name:
        _warn(counted, job.recipe.filter.most_rejected)
    return counted.model_dump()


def _warn(counted: Funnel, most: float) -> None:
    """A rule that rejects nearly everything is more likely wrong than the traces."""
    for name, rule in counted.rules.items():
        if counted.traces >= FEW and rule.fails > most * counted.traces:
            why = max((r for r in counted.rejected if r.startswith(f"{name}: ")), default=name)
            raise UserError(
                f"the rule {name!r} rejects {rule.fails} of {counted.traces} traces ({why}): look at some "
                "with `retort show --rejected`; filter.most_rejected=1 goes on all the same"
            )


def _check(recipe: Recipe) -> None:
    filters.check_rules(recipe.filter.rules)


def judging(name: str, reads: str) -> Stage:
    """A stage that judges the traces of another one."""
    return Stage(
        name=name,
        version=2,
        row=Trace,
        mirrors=reads,
        reads=(reads,),
        settings=settings,
        check=_check,
        run=run,
    )


FILTER = judging("filter", "generate")
