"""The untrained student is sampled for every problem to train on, whoever made the traces of it."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.config import Recipe
from pipeline.engine.changed_settings import claim, manifest_of
from pipeline.engine.execute import DONE, execute
from pipeline.engine.stage import Job
from pipeline.generate import stage as generate
from pipeline.generate.stage import GENERATE, training_job
from pipeline.ingest.stage import INGEST
from pipeline.score import attempts


def source(folder: Path, name: str, **row: str) -> dict[str, str]:
    path = folder / f"{name}.jsonl"
    path.write_text(json.dumps(row | {"answer": "5"}) + "\n")
    return {"kind": name, "path": str(path)}


def test_problems_with_given_traces_are_sampled_too(tmp_path: Path) -> None:
    sources = [
        source(tmp_path, "traces", question="2 + 3?", response="5") | {"teacher": "other"},
        source(tmp_path, "file", question="1 + 4?"),
    ]
    recipe = Recipe.model_validate(
        {
            "run": "run",
            "ingest": {"sources": sources, "held_out": 0},
            "teacher": {"model": "m", "base_url": "http://localhost:1/v1"},
            "generate": {"prompt": "plain", "samples": 2},
            "student": {"model": "org/small"},
            "score": {"student_samples": 2},
        }
    )
    assert execute(INGEST, recipe, tmp_path / "run") == DONE
    asked = {}
    for stage, sampling in (
        (GENERATE, training_job(recipe)),
        (attempts.attempts_stage(recipe), attempts._sampling(recipe, None)),
    ):
        job = Job(stage, recipe, tmp_path / "run")
        claim(job, manifest_of(job))
        (shard,) = job.share()
        items = generate._plan(job, sampling, lambda samples: None, shard).items
        asked[stage.name] = sorted(item.payload.problem.question for item in items)
    assert asked == {"generate": ["1 + 4?"] * 2, "score/attempts": ["1 + 4?"] * 2 + ["2 + 3?"] * 2}
