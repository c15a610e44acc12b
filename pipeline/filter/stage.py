"""filter: applies every rule to every trace. Rejected traces stay, with the reason.

Rules that see one trace or one problem run shard by shard. If duplicates are searched, these verdicts are
first written to filter/each, because only traces that no rule rejects are compared. Verdicts of the LLM judge
on free-text answers are in filter/judge before any rule runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filters.table import check_rules, with_versions
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.traces import Filter
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.errors import UserError
from pipeline.filter import dedup, llm_judge
from pipeline.filter.apply import VERSIONS, FilterContext, filter_shard, map_shards, questions_only
from pipeline.filter.funnel import Funnel, Rule, funnel
from pipeline.generate.stage import GENERATE
from pipeline.ingest import sources
from pipeline.rows import Trace

NO_REASONING = "single_reasoning: no_reasoning"  # the reason given to a teacher that reasons in plain text
MIN_TRACES = 50  # with fewer, a rule that rejects nearly all is no sign of a mistake


def settings(recipe: Recipe, table: Filter, uses_judge: bool) -> dict[str, Any]:
    """The rules with their parameters and versions, and the judge's settings if it is used."""
    rules = with_versions(table.rules)
    for name in ("contamination", "majority", "difficulty"):
        if given := getattr(table, name):
            rules[name] = {"version": VERSIONS[name], **identity(given)}
    if table.contamination:
        rules["contamination"]["against"] = [sources.fingerprint(s) for s in table.contamination.against]
    return {"rules": rules} | ({"judge": llm_judge.settings(recipe)} if uses_judge else {})


def rules_stage(name: str, reads: str, table: Filter, uses_judge: bool) -> Stage:
    """A nested stage that applies every filter but `duplicates` to the traces of the stage `reads`."""
    return Stage(
        name=name,
        version=3,
        row=Trace,
        shards_from=reads,
        reads=(reads,),
        settings=lambda recipe: settings(recipe, table, uses_judge),
        check=_check,
        run=lambda job: _apply_rules(job, table, uses_judge).model_dump(),
        substages=lambda recipe, run_dir: _judge_stage(name, reads, uses_judge),
    )


def _judge_stage(name: str, reads: str, uses_judge: bool) -> list[Stage]:
    return [llm_judge.judge_stage(_judge_folder(name), reads)] if uses_judge else []


def _judge_folder(name: str) -> str:
    """The folder of the judge's verdicts on the traces that the stage `name` filters."""
    return f"{name.removesuffix('/each')}/judge"


def _apply_rules(job: Job, table: Filter, uses_judge: bool) -> Funnel:
    (reads,) = job.stage.reads
    rows = job.inputs[reads].counts().rows
    shards = [each for each in _shards(job, reads, uses_judge) if not each[1].sealed]
    with job.progress(rows) as progress:
        for done in map_shards(filter_shard, FilterContext(table), shards, rows):
            progress.update(done=done)
    return _funnel_of(job)


def _shards(job: Job, reads: str, uses_judge: bool) -> Sequence[tuple[Shard, ...]]:
    """The shards of traces, of filtered traces and, if the judge is used, of its verdicts."""
    if not uses_judge:
        return job.shard_pairs()
    verdicts = llm_judge.run_judge(job, _judge_folder(job.stage.name), reads)
    return [(*pair, judged) for pair, judged in zip(job.shard_pairs(), verdicts, strict=True)]


def _funnel_of(job: Job) -> Funnel:
    return funnel([shard.path for shard in job.output.shards()])


def _settings(recipe: Recipe) -> dict[str, Any]:
    duplicates = recipe.filter.duplicates
    common = settings(recipe, recipe.filter, bool(recipe.judged_source))
    if duplicates is None:
        return common
    versions = {name: VERSIONS[name] for name in (dedup.PROBLEM, dedup.TRACE)}
    return common | {"duplicates": duplicates.model_dump() | {"versions": versions}}


def _run(job: Job) -> dict[str, Any]:
    """Filters every trace and reports the funnel. Raises UserError if one rule rejects nearly all."""
    table, uses_judge = job.recipe.filter, bool(job.recipe.judged_source)
    _announce_rules(job, table)
    apply = _apply_rules if table.duplicates is None else _apply_rules_and_deduplicate
    counted = apply(job, table, uses_judge)
    check_rejections(counted, table.max_rejected_fraction)
    return counted.model_dump()


def _announce_rules(job: Job, table: Filter) -> None:
    names = []
    for name, given in table.rules.items():
        parameters = ", ".join(f"{key} = {value}" for key, value in given.items())
        names.append(f"{name} ({parameters})" if parameters else name)
    names += [n for n in ("contamination", "majority", "difficulty", "duplicates") if getattr(table, n)]
    job.say(f"filter: rules: {', '.join(names)}")
    if "correct" not in table.rules:
        job.say("filter: warning: `correct` is switched off, so no rule reads the reference")


def _apply_rules_and_deduplicate(job: Job, table: Filter, uses_judge: bool) -> Funnel:
    if job.all_sealed:
        return _funnel_of(job)
    each = job.run_substage(_each_stage(table, uses_judge), {"generate": GENERATE})
    shards, rows = each.shards(), each.counts().rows
    duplicates = dedup.find_duplicates(FilterContext(table), shards, rows, job.output.folder)
    with job.progress(rows) as progress:
        for filtered, written in zip(shards, job.output.shards(), strict=True):
            if not written.sealed:
                progress.update(done=dedup.add_duplicate_verdicts(filtered, written, duplicates))
    return _funnel_of(job)


def _each_stage(table: Filter, uses_judge: bool) -> Stage:
    return rules_stage("filter/each", "generate", table, uses_judge)


def _substages(recipe: Recipe, run_dir: Path) -> list[Stage]:
    uses_judge = bool(recipe.judged_source)
    if recipe.filter.duplicates is not None:
        return [_each_stage(recipe.filter, uses_judge)]
    return _judge_stage("filter", "generate", uses_judge)


def check_rejections(counted: Funnel, max_fraction: float) -> None:
    """Raises UserError if one rule stops nearly all traces: more likely the rule is wrong than the traces."""
    if counted.traces < MIN_TRACES:
        return
    for name, rule in counted.rules.items():
        if rule.failed + rule.undecided <= max_fraction * counted.traces:
            continue
        reasons = counted.rejected if rule.failed >= rule.undecided else counted.undecided
        reason = next((reason for reason in reasons if reason.startswith(f"{name}: ")), name)
        hint = ' select.reasoning = "none" teaches plain text;' if reason == NO_REASONING else ""
        raise UserError(
            f"the rule {name!r} {_effect(rule)} of {counted.traces} traces ({reason}): look at some with "
            f"`retort why`;{hint} filter.max_rejected_fraction=1 continues all the same"
        )


def _effect(rule: Rule) -> str:
    rejects = f"rejects {rule.failed}"
    if not rule.undecided:
        return rejects
    return f"leaves undecided {rule.undecided}" + (f" and {rejects}" if rule.failed else "")


def _check(recipe: Recipe) -> None:
    check_rules(recipe.filter.rules)
    if "confidence" in recipe.filter.rules and recipe.generate.logprobs is None:
        raise UserError("filter.rules.confidence needs generate.logprobs = 0 or more")
    if recipe.judged_source:
        llm_judge.check(recipe)
    for source in recipe.filter.contamination.against if recipe.filter.contamination else ():
        sources.check(questions_only(source))


FILTER = Stage(
    name="filter",
    version=3,
    row=Trace,
    shards_from="generate",
    reads=("generate",),
    settings=_settings,
    check=_check,
    run=_run,
    tables=("filter", "judge"),
    substages=_substages,
)
