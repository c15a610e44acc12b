"""select: kept traces become training examples, at most k a problem, in the form R1's students learned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import prompts
from filters.measures import token_counts
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.data import Select
from pipeline.errors import UserError
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
        rows: list[Example] = []
        for _, drawn in groupby(traces.rows(), key=lambda trace: trace.problem_id):
            of_problem = list(drawn)
            rate = pass_rate(of_problem)
            kept = [trace for trace in of_problem if trace.outcome == "kept"]
            report["kept"] += len(kept)
            chosen = _choose(kept, job.recipe.select, report)
            rows += [_example(trace, rate, prompt, job.recipe) for trace in chosen]
        for row in rows:
            report[row.split] += 1
        job.output.write(examples.name, rows)
    return report


def pass_rate(traces: Iterable[Trace]) -> float | None:
    """Share of a problem's samples judged right or wrong that are right; None where none was judged."""
    said = [v.outcome for trace in traces for v in trace.verdicts if v.filter == "correct"]
    judged = [outcome for outcome in said if outcome != "unknown"]
    return judged.count("pass") / len(judged) if judged else None


def confidence(trace: Trace) -> float | None:
    """Mean log-probability of a token; where only those of the two parts are kept, weighed by characters."""
    if trace.logprobs is not None and trace.logprobs.logprobs:
        return sum(trace.logprobs.logprobs) / len(trace.logprobs.logprobs)
    if trace.reasoning_logprob is None or trace.response_logprob is None:
        return None
    thought, answer = len(trace.reasoning or ""), len(trace.response)
    return (trace.reasoning_logprob * thought + trace.response_logprob * answer) / (thought + answer)


def _choose(kept: Iterable[Trace], select: Select, report: dict[str, int]) -> Iterator[Trace]:
    """The preferred different traces of a problem, `per_problem` at most."""
    seen: set[tuple[str | None, str]] = set()
    for trace in sorted(kept, key=lambda trace: _preference(trace, select.prefer)):
        text = (trace.reasoning, trace.response)
        if not all(text):
            report["without_thought"] += 1
        elif text in seen:
            report["same_text"] += 1
        elif len(seen) == select.per_problem:
            report["over_per_problem"] += 1
        else:
            seen.add(text)
            yield trace


def _preference(trace: Trace, prefer: str) -> float:
    """The lower, the sooner it is chosen; those alike stay in their order."""
    if prefer == "confident":
        sure = confidence(trace)
        if sure is None:
            raise UserError(
                f'select.prefer = "confident", but trace {trace.id} has no log-probabilities: set '
                "generate.logprobs (0 keeps their mean alone)"
            )
        return -sure
    return sum(token_counts(trace)) if prefer == "short" else 0


def assistant_text(trace: Trace) -> str:
    """Thought and answer as the student learns them: <think> thought </think> answer (R1-Distill)."""
    return f"<think>\n{trace.reasoning}\n</think>\n\n{trace.response}"


def _example(trace: Trace, rate: float | None, prompt: prompts.Prompt, recipe: Recipe) -> Example:
    answer = Message(role="assistant", content=assistant_text(trace))
    held_back = _share_of(trace.problem_id, recipe.seed) < recipe.select.validation
    return Example(
        id=trace.id,
        problem_id=trace.problem_id,
        source=trace.source,
        teacher=trace.teacher,
        split="validation" if held_back else "train",
        pass_rate=rate,
        confidence=confidence(trace),
        tokens=trace.completion_tokens,
        messages=(*prompt.render(trace), answer),
    )


def _share_of(problem_id: str, seed: int) -> float:
    """Where a problem stands between 0 and 1; by its id alone, so all of its examples are on one side."""
    text = json.dumps(["validation", seed, problem_id])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _check(recipe: Recipe) -> None:
    prompts.load(recipe.select.prompt)
    if recipe.select.prefer == "confident" and recipe.generate.logprobs is None:
        raise UserError("select.prefer = 'confident' needs generate.logprobs = 0 or more")


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {**identity(recipe.select), "prompt": prompts.load(recipe.select.prompt).text, "seed": recipe.seed}


SELECT = Stage(
    name="select",
    version=2,  # 2: pass rate, confidence and tokens are in the rows
    row=Example,
    mirrors="filter",
    reads=("filter",),
    settings=_settings,
    check=_check,
    run=run,
)
