"""select: kept traces become training examples, at most k a problem.

In the form that R1's students learned, the thought in tags before the response, or the response alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import prompts
from filters.rules.length import token_counts
from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.traces import Select
from pipeline.engine.stage import Job, Stage
from pipeline.errors import UserError
from pipeline.rows import Example, Message, Trace

# What becomes of a kept trace that is no example, for people; the keys stand in the report.
LEFT_OUT = {
    "without_thought": "without a thought",
    "without_answer": "without an answer",
    "same_text": "of the same text as another",
    "over_per_problem": "over select.per_problem",
}


def run(job: Job) -> dict[str, Any]:
    """Write the examples; the report says of how many kept traces they are, and what became of the others.

    kept = train + validation + each of LEFT_OUT; thought_not_taught counts examples. Raises UserError, and
    leaves the folder empty, where there is nothing to train on.
    """
    report = dict.fromkeys(("kept", *LEFT_OUT, "train", "validation", "thought_not_taught"), 0)
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
    if not report["train"]:
        for shard in job.output.shards():  # so that the same run may be selected from otherwise
            shard.path.unlink(missing_ok=True)
        raise UserError(f"no example to train on: {_nothing(report, job.recipe.run)}")
    return report


def _nothing(report: Mapping[str, int], run: str) -> str:
    """Why no kept trace became an example to train on, and what to set."""
    if not report["kept"]:
        return f"no trace was kept; `retort why {run}` shows what rejected them"
    if report["validation"]:
        return f"all {report['validation']} examples are held back by select.validation: lower it"
    said = ", ".join(f"{report[name]} {what}" for name, what in LEFT_OUT.items() if report[name])
    hint = '; select.reasoning = "none" teaches the response alone' if report["without_thought"] else ""
    return f"of {report['kept']} kept traces {said}{hint}"


def pass_rate(traces: Iterable[Trace]) -> float | None:
    """Share of a problem's samples judged right or wrong that are right; None where none was judged."""
    said = [v.outcome for trace in traces for v in trace.verdicts if v.filter == "correct"]
    judged = [outcome for outcome in said if outcome != "undecided"]
    return judged.count("passed") / len(judged) if judged else None


def confidence(trace: Trace) -> float | None:
    """Mean log-probability of a token; where only those of the two parts are kept, weighed by characters."""
    if trace.logprobs is not None and trace.logprobs.logprobs:
        return sum(trace.logprobs.logprobs) / len(trace.logprobs.logprobs)
    parts = ((trace.reasoning, trace.reasoning_logprob), (trace.response, trace.response_logprob))
    means = [(len(text), mean) for text, mean in parts if text]
    if not means or any(mean is None for _, mean in means):
        return None
    return sum(length * (mean or 0) for length, mean in means) / sum(length for length, _ in means)


def _choose(kept: Sequence[Trace], select: Select, report: dict[str, int]) -> Iterator[Trace]:
    """The preferred different traces of a problem, `per_problem` at most, each as far as it is taught."""
    seen: set[tuple[str | None, str]] = set()
    taught = kept if select.reasoning == "tags" else [_response_alone(trace) for trace in kept]
    apart = {trace.id for trace in kept if (trace.reasoning or "").strip()}
    for trace in sorted(taught, key=lambda trace: _preference(trace, select.prefer)):
        text = (trace.reasoning, trace.response)
        if select.reasoning == "tags" and trace.id not in apart:
            report["without_thought"] += 1
        elif not trace.response.strip():
            report["without_answer"] += 1
        elif text in seen:
            report["same_text"] += 1
        elif len(seen) == select.per_problem:
            report["over_per_problem"] += 1
        else:
            seen.add(text)
            report["thought_not_taught"] += trace.id in apart and trace.reasoning is None
            yield trace


def _response_alone(trace: Trace) -> Trace:
    """The trace without its thought and what was counted of that."""
    if trace.reasoning is None:
        return trace
    answer = None if trace.completion_tokens is None else token_counts(trace)[1]
    kept = trace.logprobs and trace.logprobs.logprobs[trace.logprobs.thought :]
    mean = sum(kept) / len(kept) if kept else trace.response_logprob
    update = {"reasoning": None, "reasoning_logprob": None, "logprobs": None}
    return trace.model_copy(update={**update, "response_logprob": mean, "completion_tokens": answer})


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
    """What the student learns: <think> thought </think> response (R1-Distill), or the response alone."""
    if trace.reasoning is None:
        return trace.response
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
    version=3,  # 2: pass rate, confidence and tokens are in the rows; 3: `reasoning` says what is taught
    row=Example,
    shards_from="filter",
    reads=("filter",),
    settings=_settings,
    check=_check,
    run=run,
    tables=("select",),
)
