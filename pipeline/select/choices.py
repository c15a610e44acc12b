"""Which traces of a shard become examples, with what must be known of all shards before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from pathlib import Path

import prompts
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.engine.worker_pool import parallel_map
from pipeline.filter.apply import FilterContext
from pipeline.filter.verdicts import filtered_traces
from pipeline.rows import Example, ExampleKind, Trace, TraceScore, TraceVerdicts
from pipeline.select import mix, pairs
from pipeline.select.chat_format import hash_number, to_example
from pipeline.select.choose import NEED_SCORES, choose, solves_as_wanted
from pipeline.select.lengths import Drawn, LengthMix, draw, mix_of
from pipeline.select.marks import Marked, marks_on, read_marks


@dataclass(frozen=True)
class Chosen:
    """A trace that becomes an example."""

    trace: Trace
    pass_rate: float | None  # of its problem
    kind: ExampleKind
    rejected: Trace | None  # an incorrect trace of the same problem


@dataclass(frozen=True)
class Prepared:
    """What is known of all shards before any of them is made."""

    marks: Mapping[str, Marked] = field(default_factory=dict)  # by the trace's id, with select.marks
    lengths: LengthMix | None = None  # which examples of each length stay
    wanted: frozenset[str] | None = None  # the ids of the examples to train on; None: all
    chats: mix.Sampled | None = None  # the chat data to add


def prepare(job: Job) -> Prepared:
    """Reads the traces of all shards once for each of the settings that needs it, and the chat data."""
    prepared, most = _prepare(job), job.recipe.select.max_examples
    wanted = None
    if most is not None:
        ids = _training_ids(job, prepared)
        ranked = sorted(ids, key=lambda id: hash_number("max_examples", id, job.recipe.seed))
        wanted = frozenset(ranked[:most])
    return replace(prepared, wanted=wanted, chats=mix.prepare(job))


def training_ids(job: Job) -> list[str]:
    """The ids of all examples of traces to train on, if select.max_examples were not set."""
    return _training_ids(job, _prepare(job))


def _prepare(job: Job) -> Prepared:
    """Reads the marks, then draws the mix of lengths among the traces that they leave."""
    given = job.recipe.select.marks
    prepared = Prepared(marks=read_marks(Path(given.path)) if given else {})
    return replace(prepared, lengths=_lengths(job, prepared))


def _training_ids(job: Job, prepared: Prepared) -> list[str]:
    shards = job.inputs["filter"].shards()
    examples = (example for shard in shards for example in examples_of(job, shard, prepared, Counter()))
    return [example.id for example in examples if example.split == "train"]


def examples_of(job: Job, shard: Shard, prepared: Prepared, counts: Counter[str]) -> Iterator[Example]:
    """Yields the examples of a shard's traces; counts the kept traces and what is left out."""
    prompt, used = prompts.load(job.recipe.select.prompt), set[str]()
    for chosen in _chosen(job, shard, prepared, counts):
        example = to_example(chosen.trace, chosen.pass_rate, prompt, job.recipe, chosen.kind, chosen.rejected)
        if prepared.wanted is None or example.split != "train" or example.id in prepared.wanted:
            counts["pairs"] += chosen.rejected is not None
            used |= {chosen.rejected.id} if chosen.rejected else set()
            yield example
        else:
            counts["over_max_examples"] += 1
    counts["incorrect_used"] += len(used)


def pass_rate(traces: Iterable[Trace | TraceVerdicts]) -> float | None:
    """The share of a problem's graded samples that are correct; None if none was graded."""
    outcomes = [v.outcome for trace in traces for v in trace.verdicts if v.filter == "correct"]
    graded = [outcome for outcome in outcomes if outcome != "undecided"]
    return graded.count("passed") / len(graded) if graded else None


def _chosen(job: Job, shard: Shard, prepared: Prepared, counts: Counter[str]) -> Iterator[Chosen]:
    select, scores = job.recipe.select, dict[str, TraceScore]()
    ignored = FilterContext(job.recipe.filter).ignored
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
        marks = marks_on(kept, prepared.marks, counts)
        plain = mix.is_plain(samples[0].problem_id, select, job.recipe.seed)
        taught = select.model_copy(update={"reasoning": "none"}) if plain else select
        chosen = list(choose(kept, taught, counts, scores, prepared.lengths, marks))
        rejected = pairs.rejected_for(chosen, samples, plain, select, counts, ignored)
        kind: ExampleKind = "plain" if plain else "reasoning"
        for trace, other in zip(chosen, rejected, strict=True):
            yield Chosen(trace, rate, kind, other)


def _lengths(job: Job, prepared: Prepared) -> LengthMix | None:
    """Which examples of each length stay; None without select.lengths."""
    if not job.recipe.select.lengths:
        return None
    shards = job.inputs["filter"].shards()
    rows = sum(shard.count().rows for shard in shards)
    examples = parallel_map(_drawn, job, [(shard, prepared) for shard in shards], rows)
    return mix_of(chain.from_iterable(examples), job.recipe.select.lengths, job.recipe.seed)


def _drawn(job: Job, shard: Shard, prepared: Prepared) -> list[Drawn]:
    chosen = _chosen(job, shard, prepared, Counter())
    return [draw(each.trace, job.recipe.select.lengths, job.recipe.seed) for each in chosen]
