"""Which traces of a shard become examples, with what must be known of all shards before."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby

import prompts
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.engine.worker_pool import parallel_map
from pipeline.filter.verdicts import filtered_traces
from pipeline.rows import Example, Trace, TraceScore, TraceVerdicts
from pipeline.select.choose import NEED_SCORES, choose, solves_as_wanted
from pipeline.select.example import to_example
from pipeline.select.lengths import Drawn, LengthMix, draw, mix_of


@dataclass(frozen=True)
class Chosen:
    """A trace that becomes an example."""

    trace: Trace
    pass_rate: float | None  # of its problem


@dataclass(frozen=True)
class Limits:
    """What is left out so that all shards together have the wanted examples."""

    lengths: LengthMix | None = None
    wanted: frozenset[str] | None = None  # the ids of the examples to train on; None: all


def limits_of(job: Job) -> Limits:
    """Finds the limits, in a pass over the traces of all shards for each of the settings that needs one."""
    lengths, most = _lengths(job), job.recipe.select.max_examples
    if most is None:
        return Limits(lengths)
    ranked = sorted(training_ids(job), key=lambda id: _rank(id, job.recipe.seed))
    return Limits(lengths, frozenset(ranked[:most]))


def training_ids(job: Job) -> list[str]:
    """The ids of all examples to train on, if select.max_examples were not set."""
    limits, shards = Limits(_lengths(job)), job.inputs["filter"].shards()
    examples = (example for shard in shards for example in examples_of(job, shard, limits, Counter()))
    return [example.id for example in examples if example.split == "train"]


def examples_of(job: Job, shard: Shard, limits: Limits, counts: Counter[str]) -> Iterator[Example]:
    """Yields the examples of a shard, problem by problem; counts the kept traces and what is left out."""
    prompt = prompts.load(job.recipe.select.prompt)
    for chosen in _chosen(job, shard, limits.lengths, counts):
        example = to_example(chosen.trace, chosen.pass_rate, prompt, job.recipe)
        if limits.wanted is None or example.split != "train" or example.id in limits.wanted:
            yield example
        else:
            counts["over_max_examples"] += 1


def pass_rate(traces: Iterable[Trace | TraceVerdicts]) -> float | None:
    """The share of a problem's graded samples that are correct; None if none was graded."""
    outcomes = [v.outcome for trace in traces for v in trace.verdicts if v.filter == "correct"]
    graded = [outcome for outcome in outcomes if outcome != "undecided"]
    return graded.count("passed") / len(graded) if graded else None


def _chosen(job: Job, shard: Shard, lengths: LengthMix | None, counts: Counter[str]) -> Iterator[Chosen]:
    select, scores = job.recipe.select, dict[str, TraceScore]()
    if select.prefer in NEED_SCORES or select.student_pass_rate:
        scores = {row.id: row for row in job.input_shard(shard, "score").rows()}
    traces = filtered_traces(job.input_shard(shard, "generate"), job.input_shard(shard, "filter"))
    for _, group in groupby(traces, key=lambda trace: trace.problem_id):
        samples = list(group)
        rate = pass_rate(samples)
        kept = [trace for trace in samples if trace.outcome == "kept"]
        counts["kept"] += len(kept)
        if select.student_pass_rate and not solves_as_wanted(kept, select.student_pass_rate, scores):
            counts["student_pass_rate"] += len(kept)
            continue
        yield from (Chosen(trace, rate) for trace in choose(kept, select, counts, scores, lengths))


def _lengths(job: Job) -> LengthMix | None:
    """Which examples of each length stay; None without select.lengths."""
    if not job.recipe.select.lengths:
        return None
    shards = job.inputs["filter"].shards()
    rows = sum(shard.count().rows for shard in shards)
    examples = parallel_map(_drawn, job, [(shard,) for shard in shards], rows)
    return mix_of(chain.from_iterable(examples), job.recipe.select.lengths, job.recipe.seed)


def _drawn(job: Job, shard: Shard) -> list[Drawn]:
    chosen = _chosen(job, shard, None, Counter())
    return [draw(each.trace, job.recipe.select.lengths, job.recipe.seed) for each in chosen]


def _rank(id: str, seed: int) -> str:
    return hashlib.sha256(f"max_examples {seed} {id}".encode()).hexdigest()
