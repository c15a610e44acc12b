"""select: turns kept traces into training examples, at most `per_problem` for a problem."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import prompts
from filters.rules.length import token_counts
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.traces import Select
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job, Stage
from pipeline.errors import UserError
from pipeline.filter.stage import FILTER
from pipeline.filter.verdicts import filtered_traces
from pipeline.generate.stage import GENERATE
from pipeline.rows import Example, Trace
from pipeline.select.example import confidence, response_only, to_example

# Why a kept trace is not an example: key in the report -> words for people.
LEFT_OUT = {
    "without_reasoning": "without reasoning",
    "without_answer": "without an answer",
    "same_text": "of the same text as another",
    "over_per_problem": "over select.per_problem",
    "over_max_examples": "over select.max_examples",
}


def prepare(job: Job) -> frozenset[str] | None:
    """With select.max_examples, the ids of the examples to train on, chosen over all shards; else None."""
    most = job.recipe.select.max_examples
    if most is None:
        return None
    ranked = sorted(training_ids(job), key=lambda id: _rank(id, job.recipe.seed))
    return frozenset(ranked[:most])


def training_ids(job: Job) -> list[str]:
    """The ids of all examples to train on, if select.max_examples were not set."""
    shards = job.inputs["filter"].shards()
    examples = (example for shard in shards for example in _examples(job, shard, Counter()))
    return [example.id for example in examples if example.split == "train"]


def _rank(id: str, seed: int) -> str:
    return hashlib.sha256(f"max_examples {seed} {id}".encode()).hexdigest()


def work(job: Job, shards: Iterable[Shard]) -> None:
    """Writes the examples of each shard, and in its counts what became of the kept traces.

    kept = train + validation + each of LEFT_OUT; `reasoning_not_taught` counts examples.
    """
    wanted = job.prepared
    for shard in shards:
        counts: Counter[str] = Counter()
        rows = []
        for row in _examples(job, shard, counts):
            if wanted is None or row.split != "train" or row.id in wanted:
                rows.append(row)
            else:
                counts["over_max_examples"] += 1
        counts.update(row.split for row in rows)
        shard.write((row.model_dump() for row in rows), counts)


def _examples(job: Job, shard: Shard, counts: Counter[str]) -> Iterator[Example]:
    """Yields the examples of a shard, problem by problem; counts the kept traces and what is left out."""
    prompt = prompts.load(job.recipe.select.prompt)
    traces = filtered_traces(job.input_shard(shard, "generate"), job.input_shard(shard, "filter"))
    for _, group in groupby(traces, key=lambda trace: trace.problem_id):
        samples = list(group)
        rate = pass_rate(samples)
        kept = [trace for trace in samples if trace.outcome == "kept"]
        counts["kept"] += len(kept)
        for trace in choose(kept, job.recipe.select, counts):
            yield to_example(trace, rate, prompt, job.recipe)


def report(job: Job) -> dict[str, Any]:
    """The counts of all shards. Raises UserError if there is nothing to train on."""
    counts = job.output.report()
    report = {
        name: counts[name] for name in ("kept", *LEFT_OUT, "train", "validation", "reasoning_not_taught")
    }
    if not report["train"]:
        raise UserError(f"no example to train on: {_why_none(report, job.recipe.run)}")
    return report


def _why_none(report: Mapping[str, int], run: str) -> str:
    if not report["kept"]:
        return f"no trace was kept; `retort why {run}` shows what rejected them"
    if report["validation"]:
        return f"all {report['validation']} examples are held back by select.validation: lower it"
    reasons = ", ".join(f"{report[name]} {words}" for name, words in LEFT_OUT.items() if report[name])
    hint = '; select.reasoning = "none" teaches the response alone' if report["without_reasoning"] else ""
    return f"of {report['kept']} kept traces {reasons}{hint}"


def pass_rate(traces: Iterable[Trace]) -> float | None:
    """The share of a problem's graded samples that are correct; None if none was graded."""
    outcomes = [v.outcome for trace in traces for v in trace.verdicts if v.filter == "correct"]
    graded = [outcome for outcome in outcomes if outcome != "undecided"]
    return graded.count("passed") / len(graded) if graded else None


def choose(kept: Sequence[Trace], select: Select, counts: dict[str, int]) -> Iterator[Trace]:
    """Yields the preferred distinct traces of a problem, without what is not taught."""
    seen: set[tuple[str | None, str]] = set()
    tags = select.reasoning == "tags"
    with_reasoning = {trace.id for trace in kept if (trace.reasoning or "").strip()}
    taught = kept if tags else [response_only(trace) for trace in kept]
    for trace in sorted(taught, key=lambda trace: _sort_key(trace, select.prefer)):
        text = (trace.reasoning, trace.response)
        if tags and trace.id not in with_reasoning:
            counts["without_reasoning"] += 1
        elif not trace.response.strip():
            counts["without_answer"] += 1
        elif text in seen:
            counts["same_text"] += 1
        elif len(seen) == select.per_problem:
            counts["over_per_problem"] += 1
        else:
            seen.add(text)
            counts["reasoning_not_taught"] += trace.id in with_reasoning and trace.reasoning is None
            yield trace


def _sort_key(trace: Trace, prefer: str) -> float:
    """Lower is preferred; ties keep their order."""
    if prefer == "short":
        return sum(token_counts(trace))
    if prefer == "first":
        return 0
    value = confidence(trace)
    if value is None:
        raise UserError(
            f'select.prefer = "confident", but trace {trace.id} has no log-probabilities: set '
            "generate.logprobs (0 keeps their mean alone)"
        )
    return -value


def _check(recipe: Recipe) -> None:
    prompts.load(recipe.select.prompt)
    if recipe.select.prefer == "confident":
        recipe.check_logprobs("select.prefer = 'confident'")


def _settings(recipe: Recipe) -> dict[str, Any]:
    chosen = {name: value for name, value in identity(recipe.select).items() if name != "max_examples"}
    if recipe.select.max_examples is not None:
        chosen["max_examples"] = recipe.select.max_examples
    return {**chosen, "prompt": prompts.load(recipe.select.prompt).text, "seed": recipe.seed}


SELECT = Stage(
    name="select",
    version=5,
    row=Example,
    reads=(GENERATE, FILTER),
    shards_from="filter",
    settings=_settings,
    check=_check,
    prepare=prepare,
    work=work,
    report=report,
    free=True,
)
