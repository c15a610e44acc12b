"""select: kept traces become training examples, at most k a problem, in the form R1's students learned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import prompts
from pipeline.config import Recipe, identity
from pipeline.rows import Example, Message, Trace
from pipeline.stage import Job, Stage


def run(job: Job) -> dict[str, Any]:
    """Write the examples; the report says of how many kept traces they are, and what became of the others."""
    report = {
        "kept": 0,
        "without_thought": 0,
        "same_text": 0,
        "over_per_problem": 0,
        "train": 0,
        "validation": 0,
    }
    prompt = prompts.load(job.recipe.select.prompt)
    for traces, examples in job.pairs():
        kept = [trace for trace in traces.rows() if trace.outcome == "kept"]
        chosen = list(_choose(kept, job.recipe.select.per_problem, report))
        rows = [_example(trace, prompt, job.recipe) for trace in chosen]
        report["kept"] += len(kept)
        for row in rows:
            report[row.split] += 1
        job.output.write(examples.name, rows)
    return report


def _choose(kept: Iterable[Trace], most: int, report: dict[str, int]) -> Iterator[Trace]:
    """The first `most` different traces of each problem. Those of one problem lie side by side in a shard."""
    for _, traces in groupby(kept, key=lambda trace: trace.problem_id):
        seen: set[tuple[str | None, str]] = set()
        for trace in traces:
            text = (trace.reasoning, trace.response)
            if not all(text):
                report["without_thought"] += 1
            elif text in seen:
                report["same_text"] += 1
            elif len(seen) == most:
                report["over_per_problem"] += 1
            else:
                seen.add(text)
                yield trace


def assistant_text(trace: Trace) -> str:
    """Thought and answer as the student learns them: <think> thought </think> answer (R1-Distill)."""
    return f"<think>\n{trace.reasoning}\n</think>\n\n{trace.response}"


def _example(trace: Trace, prompt: prompts.Prompt, recipe: Recipe) -> Example:
    answer = Message(role="assistant", content=assistant_text(trace))
    held_back = _share_of(trace.problem_id, recipe.seed) < recipe.select.validation
    return Example(
        id=trace.id,
        problem_id=trace.problem_id,
        source=trace.source,
        teacher=trace.teacher,
        split="validation" if held_back else "train",
        messages=(*prompt.render(trace), answer),
    )


def _share_of(problem_id: str, seed: int) -> float:
    """Where a problem stands between 0 and 1; by its id alone, so all of its examples are on one side."""
    text = json.dumps(["validation", seed, problem_id])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _check(recipe: Recipe) -> None:
    prompts.load(recipe.select.prompt)


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {**identity(recipe.select), "prompt": prompts.load(recipe.select.prompt).text, "seed": recipe.seed}


SELECT = Stage(
    name="select",
    version=1,
    row=Example,
    mirrors="filter",
    reads=("filter",),
    settings=_settings,
    check=_check,
    run=run,
)
