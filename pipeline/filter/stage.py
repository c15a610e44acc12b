"""filter: every rule says its verdict on every trace. Nothing is taken away: the rejected stay, with why.

Rules that see one trace or one problem are asked shard by shard. Where duplicates are looked for, what those
rules say is kept in filter/each first: a duplicate of a trace that is rejected anyway is none. What a
judge model says of free-text answers is in filter/judge before any rule is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filters
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.traces import Filter
from pipeline.engine.shard import Shard
from pipeline.engine.stage import DONE, Job, Stage, execute
from pipeline.engine.store import Output
from pipeline.errors import Stopped, UserError
from pipeline.filter import dedup
from pipeline.filter import llm_judge as judge
from pipeline.filter.apply import VERSIONS, FilterContext, judge_shard, questions_of, side_by_side
from pipeline.filter.funnel import Funnel, funnel
from pipeline.generate.stage import GENERATE
from pipeline.ingest import sources
from pipeline.rows import Trace

PLAIN = "single_reasoning: no_thought"  # what is said of a trace that reasons in plain text
FEW = 50  # traces of which no rule can be said to reject nearly all


def settings(recipe: Recipe, table: Filter, judged: bool) -> dict[str, Any]:
    """The rules that see a trace or a problem, their parameters and versions; the judge, where asked."""
    rules = filters.versions(table.rules)
    for name in ("contamination", "majority", "difficulty"):
        if given := getattr(table, name):
            rules[name] = {"version": VERSIONS[name], **identity(given)}
    if table.contamination:
        rules["contamination"]["against"] = [sources.fingerprint(s) for s in table.contamination.against]
    return {"rules": rules} | ({"judge": judge.settings(recipe)} if judged else {})


def judging(name: str, reads: str, table: Filter, judged: bool) -> Stage:
    """A stage that judges the traces of another one by what sees a trace or a problem.

    judged: whether a judge model is asked of the free-text answers among them.
    """
    return Stage(
        name=name,
        version=2,
        row=Trace,
        shards_from=reads,
        reads=(reads,),
        settings=lambda recipe: settings(recipe, table, judged),
        check=_check,
        run=lambda job: _judge(job, table, judged).model_dump(),
        parts=lambda recipe, run_dir: [judge.stage(_judge_verdicts(name), reads)] if judged else [],
    )


def _judge_verdicts(name: str) -> str:
    """The folder of what a judge model says of the traces that the stage `name` judges."""
    return f"{name.removesuffix('/each')}/judge"


def _judge(job: Job, table: Filter, judged: bool) -> Funnel:
    (reads,) = job.stage.reads
    judges = FilterContext(table)
    rows = job.inputs[reads].counts().rows
    todo = [arguments for arguments in _shards(job, reads, judged) if not arguments[1].sealed]
    with job.progress(rows) as progress:
        for done in side_by_side(judge_shard, judges, todo, rows):
            progress.update(done=done)
    return _counted(job)


def _shards(job: Job, reads: str, judged: bool) -> Sequence[tuple[Shard, ...]]:
    """The shards of traces, of judged traces and, where there are some, of judge_verdicts on them."""
    if not judged:
        return job.pairs()
    judge_verdicts = judge.judge_verdicts(job, _judge_verdicts(job.stage.name), reads)
    return [(*pair, given) for pair, given in zip(job.pairs(), judge_verdicts, strict=True)]


def _counted(job: Job) -> Funnel:
    return funnel([shard.path for shard in job.output.shards()])


def _settings(recipe: Recipe) -> dict[str, Any]:
    duplicates = recipe.filter.duplicates
    common = settings(recipe, recipe.filter, bool(recipe.judged))
    if duplicates is None:
        return common
    versions = {name: VERSIONS[name] for name in (dedup.PROBLEM, dedup.TRACE)}
    return common | {"duplicates": duplicates.model_dump() | {"versions": versions}}


def _run(job: Job) -> dict[str, Any]:
    """Judge every trace; the report is the funnel. UserError where one rule rejects nearly all."""
    table, judged = job.recipe.filter, bool(job.recipe.judged)
    alone = table.duplicates is None
    _say_rules(job, table)
    counted = _judge(job, table, judged) if alone else _judge_without_duplicates(job, table, judged)
    _warn(counted, table.max_rejected_fraction)
    return counted.model_dump()


def _say_rules(job: Job, table: Filter) -> None:
    named = []
    for name, given in table.rules.items():
        said = ", ".join(f"{key} = {value}" for key, value in given.items())
        named.append(f"{name} ({said})" if said else name)
    named += [n for n in ("contamination", "majority", "difficulty", "duplicates") if getattr(table, n)]
    job.say(f"filter: rules: {', '.join(named)}")
    if "correct" not in table.rules:
        job.say("filter: warning: `correct` is switched off, so no rule reads the reference")


def _judge_without_duplicates(job: Job, table: Filter, judged: bool) -> Funnel:
    if job.owes_nothing():
        return _counted(job)
    stage = _each(table, judged)
    if execute(stage, {"generate": GENERATE}, job.recipe, job.run_dir) != DONE:
        raise Stopped(f"{stage.name} is unfinished; the same command goes on")
    each = Output(job.run_dir / stage.name, Trace)
    judges, shards, rows = FilterContext(table), each.shards(), each.counts().rows
    found = dedup.find_duplicates(judges, shards, rows, job.output.folder)
    with job.progress(rows) as progress:
        for traces, written in zip(shards, job.output.shards(), strict=True):
            if not written.sealed:
                progress.update(done=dedup.without_duplicates(traces, written, found))
    return _counted(job)


def _each(table: Filter, judged: bool) -> Stage:
    """What is judged trace by trace, before duplicates are looked for."""
    return judging("filter/each", "generate", table, judged)


def _parts(recipe: Recipe, run_dir: Path) -> list[Stage]:
    judged = bool(recipe.judged)
    if recipe.filter.duplicates is not None:
        return [_each(recipe.filter, judged)]
    return [judge.stage(_judge_verdicts("filter"), "generate")] if judged else []


def _warn(counted: Funnel, most: float) -> None:
    """A rule that lets nearly nothing pass is more likely wrong than the traces are."""
    for name, rule in counted.rules.items():
        stopped = rule.fails + rule.unknown
        if counted.traces < FEW or stopped <= most * counted.traces:
            continue
        given = counted.rejected if rule.fails >= rule.unknown else counted.unknown
        why = next((reason for reason in given if reason.startswith(f"{name}: ")), name)
        does = (
            f"rejects {rule.fails}"
            if not rule.unknown
            else f"cannot tell of {rule.unknown}" + (f" and rejects {rule.fails}" if rule.fails else "")
        )
        plain = ' select.reasoning = "none" teaches plain text;' if why == PLAIN else ""
        raise UserError(
            f"the rule {name!r} {does} of {counted.traces} traces ({why}): look at some with `retort why`;"
            f"{plain} filter.max_rejected_fraction=1 goes on all the same"
        )


def _check(recipe: Recipe) -> None:
    filters.check_rules(recipe.filter.rules)
    if "confidence" in recipe.filter.rules and recipe.generate.logprobs is None:
        raise UserError("filter.rules.confidence needs generate.logprobs = 0 or more")
    if recipe.judged:
        judge.check(recipe)
    for source in recipe.filter.contamination.against if recipe.filter.contamination else ():
        sources.check(questions_of(source))


FILTER = Stage(
    name="filter",
    version=2,
    row=Trace,
    shards_from="generate",
    reads=("generate",),
    settings=_settings,
    check=_check,
    run=_run,
    tables=("filter", "judge"),
    parts=_parts,
)
