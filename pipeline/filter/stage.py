"""filter: applies every rule to every trace. It stores the verdicts alone; the traces stay where they are.

Rules that see one trace or one problem run shard by shard. If duplicates are searched, these verdicts are
first written to filter/each, because only traces that the rules keep are compared; filter/duplicates has
what was found. Verdicts of the LLM judge on free-text answers are in filter/judge before any rule runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from filters.table import check_rules, with_versions
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.filters import Filter
from pipeline.engine import layout
from pipeline.engine.execute import complete
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.filter import dedup, llm_judge
from pipeline.filter.apply import VERSIONS, FilterContext, filter_shard, questions_only
from pipeline.filter.funnel import Funnel, Rule, funnel
from pipeline.filter.suspects import suspects
from pipeline.generate.stage import GENERATE
from pipeline.ingest import sources
from pipeline.ingest import stage as ingest
from pipeline.rows import TraceVerdicts

NO_REASONING = "single_reasoning: no_reasoning"  # the reason given to a teacher that reasons in plain text
MIN_TRACES = 50  # with fewer, a rule that rejects nearly all is no sign of a mistake


def settings(table: Filter, uses_judge: bool, recipe: Recipe) -> dict[str, Any]:
    """The rules with their parameters and versions, and the judge's settings if it is used."""
    rules = with_versions(table.rules)
    for name in ("contamination", "majority", "difficulty"):
        if given := getattr(table, name):
            rules[name] = {"version": VERSIONS[name], **identity(given)}
    if table.contamination:
        read = map(questions_only, table.contamination.against)
        rules["contamination"]["against"] = [identity(s) | sources.fingerprint(s) for s in read]
    ignored = {"ignored": sorted(table.ignored)} if table.ignored else {}
    return {"rules": rules} | ignored | ({"judge": llm_judge.settings(recipe)} if uses_judge else {})


def rules_stage(name: str, reads: Stage, table: Filter, uses_judge: bool) -> Stage:
    """A nested stage that applies every filter but `duplicates` to the traces of the stage `reads`."""
    judge = _judge_stage(name, reads) if uses_judge else None
    return Stage(
        name=name,
        version=4,
        row=TraceVerdicts,
        reads=(reads,),
        shards_from=reads.name,
        settings=partial(settings, table, uses_judge),
        check=_check,
        prepare=partial(_prepare_rules, table, judge),
        work=_apply_rules,
        report=report,
        free=True,
        substages=partial(_these, (judge,) if judge else ()),
    )


def _these(stages: Sequence[Stage], recipe: Recipe, run_dir: Path) -> Sequence[Stage]:
    return stages


def _judge_stage(name: str, reads: Stage) -> Stage:
    """The stage of the judge's verdicts on the traces that the stage `name` filters."""
    return llm_judge.judge_stage(str(layout.parse(name).sibling("judge")), reads)


def _prepare_rules(table: Filter, judge: Stage | None, job: Job) -> tuple[FilterContext, Output | None]:
    """Completes the judge's verdicts, and builds the index of contamination for all workers."""
    context = FilterContext(table)
    _ = context.contamination
    return context, complete(judge, job) if judge else None


def _apply_rules(job: Job, shards: Iterable[Shard]) -> None:
    context, judged = job.prepared
    for shard in shards:
        filter_shard(context, job.input_shard(shard), shard, judged and judged.shard(shard.name))


def report(job: Job) -> dict[str, Any]:
    """The funnel."""
    return _funnel_of(job).model_dump()


def _funnel_of(job: Job) -> Funnel:
    return funnel([shard.path for shard in job.output.shards()])


def _settings(recipe: Recipe) -> dict[str, Any]:
    common = settings(recipe.filter, bool(recipe.judged_source), recipe)
    return common | ({"duplicates": dedup.settings(recipe)} if recipe.filter.duplicates else {})


def _prepare(job: Job) -> Any:
    """Completes what is nested."""
    table = job.recipe.filter
    _announce_rules(job, table)
    nested = _substages(job.recipe, job.run_dir)
    if table.duplicates is None:
        return _prepare_rules(table, nested[0] if nested else None, job)
    return [complete(stage, job) for stage in nested]


def _work(job: Job, shards: Iterable[Shard]) -> None:
    if job.recipe.filter.duplicates is None:
        _apply_rules(job, shards)
        return
    context = FilterContext(job.recipe.filter)
    for shard in shards:
        each, duplicates = (output.shard(shard.name) for output in job.prepared)
        dedup.add_duplicate_verdicts(context, each, duplicates, shard)


def _report(job: Job) -> dict[str, Any]:
    """The funnel. Raises UserError if one rule rejects nearly all traces."""
    counted = _funnel_of(job)
    table = job.recipe.filter
    check_rejections(counted, table.max_rejected_fraction, FilterContext(table).ignored)
    shards = [(job.input_shard(shard), shard) for shard in job.output.shards()]
    found = sum(1 for _ in suspects(shards, table))
    return counted.model_copy(update={"suspects": found}).model_dump()


def _announce_rules(job: Job, table: Filter) -> None:
    names = []
    for name, given in table.rules.items():
        parameters = ", ".join(f"{key} = {value}" for key, value in given.items())
        names.append(f"{name} ({parameters})" if parameters else name)
    job.say(f"filter: rules: {', '.join((*names, *table.across))}")
    if table.ignored:
        job.say(f"filter: verdicts that do not decide: {', '.join(table.ignored)}")
    if "correct" not in table.rules:
        job.say("filter: warning: `correct` is switched off, so no rule reads the reference")


def _substages(recipe: Recipe, run_dir: Path) -> Sequence[Stage]:
    uses_judge = bool(recipe.judged_source)
    if recipe.filter.duplicates is not None:
        each = rules_stage("filter/each", GENERATE, recipe.filter, uses_judge)
        return each, dedup.search_stage(GENERATE, each)
    return (_judge_stage("filter", GENERATE),) if uses_judge else ()


def check_rejections(counted: Funnel, max_fraction: float, ignored: Collection[str] = ()) -> None:
    """Raises UserError if one rule stops nearly all traces: more likely the rule is wrong than the traces."""
    if counted.traces < MIN_TRACES:
        return
    for name, rule in counted.rules.items():
        if name in ignored or rule.failed + rule.undecided <= max_fraction * counted.traces:
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
    if "confidence" in recipe.filter.rules:
        recipe.check_logprobs("filter.rules.confidence")
    if recipe.judged_source:
        llm_judge.check(recipe)
    if table := recipe.filter.contamination:
        ingest.check("filter.contamination.against", [questions_only(source) for source in table.against])


FILTER = Stage(
    name="filter",
    version=4,
    row=TraceVerdicts,
    reads=(GENERATE,),
    shards_from="generate",
    settings=_settings,
    check=_check,
    prepare=_prepare,
    work=_work,
    report=_report,
    free=True,
    substages=_substages,
)
