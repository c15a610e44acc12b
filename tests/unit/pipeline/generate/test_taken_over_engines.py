"""Traces that are taken over name the engines that made them, and no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.config import Recipe
from pipeline.engine.changed_settings import claim, manifest_of
from pipeline.engine.execute import DONE, execute
from pipeline.engine.options import Options
from pipeline.engine.stage import Job
from pipeline.generate.sample_plan import trace_id
from pipeline.generate.stage import GENERATE, prepare, training_job
from pipeline.inference import engines
from pipeline.inference.engines import Engine
from pipeline.ingest.stage import INGEST
from pipeline.rows import Sampling, Trace


def result(folder: Path, *teachers: str, temperature: float = 0.6, samples: int = 1) -> Job:
    """A job whose folder is claimed, with what is valid of earlier results."""
    (folder / "p.jsonl").write_text(json.dumps({"question": "2 + 3?", "answer": "5"}))
    recipe = Recipe.model_validate(
        {
            "run": "run",
            "ingest": {"sources": [{"kind": "file", "path": str(folder / "p.jsonl")}], "held_out": 0},
            "teacher": [{"model": name, "base_url": "http://localhost:1/v1"} for name in teachers],
            "generate": {"prompt": "plain", "samples": samples, "temperature": temperature},
        }
    )
    assert execute(INGEST, recipe, folder / "run") == DONE
    job = Job(GENERATE, recipe, folder / "run", Options(again=True))
    claim(job, manifest_of(job))
    prepare(training_job(recipe), job)
    return job


def sampled(job: Job, **versions: str) -> None:
    """Writes a trace of each teacher, made by an engine of this version."""
    (shard,) = job.share()
    (problem,) = job.input_shard(shard).rows()
    given: dict[str, Any] = problem.model_dump(include={"question", "reference", "answer_type", "source"})
    names = [teacher.display_name for teacher in job.recipe.teacher]
    traces = [
        Trace(
            **given, id=trace_id(problem.id, i, 0), problem_id=problem.id, sample=0, teacher=name,
            prompt="plain", prompt_hash="h", sampling=Sampling(temperature=0.6, top_p=0.95, max_tokens=4096),
            seed=1, reasoning=None, response="5", finish_reason="stop", prompt_tokens=1, completion_tokens=1,
        )
        for i, name in enumerate(names)
    ]  # fmt: skip
    shard.write(trace.model_dump() for trace in traces)
    job.output.finish()
    for name in names:
        engines.record(job.output.folder, {name: [Engine(name="vllm", version=versions[name])]})


def test_former_teachers_and_traces_that_are_not_valid_add_no_engine(tmp_path: Path) -> None:
    sampled(result(tmp_path, "a", temperature=0.9), a="0.1")
    sampled(result(tmp_path, "a", "b"), a="0.2", b="0.3")
    now = result(tmp_path, "a", samples=2)
    assert now.output.counts().rows == 1
    found = engines.recorded(now.output.folder)
    assert {name: [engine.version for engine in each] for name, each in found.items()} == {"a": ["0.2"]}
