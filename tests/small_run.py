"""Writes the folder of a small run without a server, for tests of readers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config.load import parse_recipe
from pipeline.engine.changed_settings import manifest_of
from pipeline.engine.manifest import Manifest
from pipeline.engine.stage import Job
from pipeline.engine.store import Output
from pipeline.filter.funnel import funnel
from pipeline.filter.stage import FILTER
from pipeline.generate.stage import GENERATE
from pipeline.ingest.sources import problem_id
from pipeline.ingest.stage import INGEST
from pipeline.inspect.run import Run, open_run
from pipeline.model_rows import Score
from pipeline.rows import Example, Message, Problem, Row, Sampling, Trace, TraceVerdicts, Verdict

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e"
HELD_OUT = "How many legs has a spider?"
SHARDS, PROBLEMS, SAMPLES = 3, 4, 3
NAMES = tuple(f"shard-{i:05d}" for i in range(SHARDS))
RECIPE = {
    "ingest": {"sources": [{"kind": "file", "path": "problems.jsonl", "name": "sums"}]},
    "teacher": {"model": "fake", "base_url": "http://127.0.0.1:9/v1", "price_per_mtok_out": 2.0},
    "generate": {"prompt": "plain", "samples": SAMPLES},
}


def write_run(folder: Path, temperature: float = 0.6, kept: int = 1) -> Run:
    """3 shards of 4 problems with 3 traces each: the first `kept` are kept, the others are incorrect."""
    folder.mkdir(parents=True)
    generate = RECIPE["generate"] | {"temperature": temperature}
    recipe = parse_recipe(RECIPE | {"run": folder.name, "generate": generate}, (), "here")
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    problems = [[_problem(shard, i) for i in range(PROBLEMS)] for shard in range(SHARDS)]
    traces = [[_trace(p, n, temperature, kept) for p in some for n in range(SAMPLES)] for some in problems]
    _write(folder / "ingest", Problem, problems, {})
    sampled = [[t.model_copy(update=_UNFILTERED) for t in some] for some in traces]
    _write(folder / "generate", Trace, sampled, {"temperature": temperature})
    verdicts = [
        [TraceVerdicts(**t.model_dump(include=set(TraceVerdicts.model_fields))) for t in some]
        for some in traces
    ]
    _write(folder / "filter", TraceVerdicts, verdicts, {"rules": {"correct": {"version": 1}}})
    examples = [[_example(t) for t in some if t.outcome == "kept"] for some in traces]
    _write(folder / "select", Example, examples, {})
    scores = [_score(p, kept) for some in problems for p in some]
    _write(folder / "evaluate", Score, [scores], {"samples": SAMPLES})
    return open_run(folder)


def write_filtered(folder: Path, kept: int, **tables: Any) -> Run:
    """The stages before select of the same run, with a held-out problem, so that select can be run.

    `tables`: those of the recipe, such as select and filter.
    """
    folder.mkdir(parents=True)
    source = {"kind": "file", "path": str(folder / "problems.jsonl"), "name": "sums"}
    Path(source["path"]).write_text('{"question": "1 + 1?", "answer": "2"}\n')
    given = RECIPE | {"run": folder.name, "ingest": {"sources": [source]}} | tables
    recipe = parse_recipe(given, (), "here")
    problems = [[_problem(shard, i) for i in range(PROBLEMS)] for shard in range(SHARDS)]
    traces = [[_trace(p, n, 0.6, kept) for p in some for n in range(SAMPLES)] for some in problems]
    held_out = {"id": problem_id(HELD_OUT), "question": HELD_OUT, "split": "held_out"}
    problems[0].append(problems[0][0].model_copy(update=held_out))
    verdicts = [
        [TraceVerdicts(**t.model_dump(include=set(TraceVerdicts.model_fields))) for t in some]
        for some in traces
    ]
    sampled = [[t.model_copy(update=_UNFILTERED) for t in some] for some in traces]
    for stage, rows in ((INGEST, problems), (GENERATE, sampled), (FILTER, verdicts)):
        output = Job(stage, recipe, folder).output
        output.save(manifest_of(Job(stage, recipe, folder)).model_copy(update={"shards": NAMES}))
        for name, some in zip(NAMES, rows, strict=True):
            output.write(name, some)
        output.finish()
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    return open_run(folder)


_UNFILTERED = {"verdicts": (), "outcome": "unfiltered", "reason": ""}


def _write(folder: Path, row: type[Row], shards: list[list[Row]], settings: dict[str, object]) -> None:
    output = Output(folder, row)
    names = tuple(f"shard-{i:05d}" for i in range(len(shards)))
    output.save(Manifest(stage=folder.name, version=1, settings=settings, inputs={}, shards=names))
    for name, rows in zip(names, shards, strict=True):
        output.write(name, rows)
    filtered = folder.name == "filter"
    output.finish(funnel([shard.path for shard in output.shards()]).model_dump() if filtered else None)


def _problem(shard: int, i: int) -> Problem:
    return Problem(
        question=f"What is {shard} + {i}? {HOSTILE}",
        reference=str(shard + i),
        answer_type="number",
        source="sums" if i else "others",
        id=f"{shard:08x}{i:08x}",
        split="train",
        origin=f"problems.jsonl:{i}",
        columns=json.dumps({"level": i, "note": HOSTILE, "shard": f"part/{shard}"}),
    )


def _trace(problem: Problem, sample: int, temperature: float, kept: int) -> Trace:
    correct = sample < kept
    said = {"outcome": "passed", "reason": ""} if correct else {"outcome": "failed", "reason": "incorrect"}
    return Trace(
        **problem.model_dump(include={"question", "reference", "answer_type", "source", "columns"}),
        id=f"{problem.id}-0-{sample:04d}",
        problem_id=problem.id,
        sample=sample,
        teacher="fake",
        prompt="plain",
        prompt_hash="0" * 16,
        sampling=Sampling(temperature=temperature, top_p=1.0, max_tokens=64),
        seed=sample,
        reasoning="I add. " * 40 + HOSTILE,
        response=f"The answer is {problem.reference if correct else '-1'}.",
        finish_reason="stop",
        prompt_tokens=10,
        completion_tokens=100 + sample,
        verdicts=(
            Verdict(filter="finished", version=1, outcome="passed", reason=""),
            Verdict(filter="correct", version=1, evidence=HOSTILE, **said),
        ),
        outcome="kept" if correct else "rejected",
        reason="" if correct else "correct: incorrect",
    )


def _example(trace: Trace) -> Example:
    said = Message(role="assistant", content=trace.response)
    return Example(
        **trace.model_dump(include={"id", "problem_id", "source", "teacher"}),
        split="train",
        pass_rate=0.5,
        confidence=None,
        tokens=trace.completion_tokens,
        messages=(Message(role="user", content=trace.question), said),
    )


def _score(problem: Problem, kept: int) -> Score:
    return Score(
        id=f"held_out/teacher/{problem.id}",
        set="held_out",
        model_role="teacher",
        model="fake",
        prompt="plain",
        problem_id=problem.id,
        source=problem.source,
        samples=SAMPLES,
        correct=kept,
        majority=0.0,
        undecided=0,
        truncated=0,
        malformed=0,
        failed=0,
        completion_tokens=300,
    )
