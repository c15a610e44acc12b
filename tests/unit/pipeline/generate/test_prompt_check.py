"""A prompt has to be filled for the problems that are asked, not for those whose traces a source gave."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import Recipe
from pipeline.engine.changed_settings import claim, manifest_of
from pipeline.engine.execute import DONE, execute
from pipeline.engine.stage import Job
from pipeline.errors import UserError
from pipeline.generate.stage import GENERATE, prepare, training_job
from pipeline.ingest.stage import INGEST


@pytest.mark.parametrize("level", [True, False])
def test_given_problems_need_no_column_of_the_prompt(tmp_path: Path, level: bool) -> None:
    rows = {"file": {"question": "1 + 4?", "answer": "5"}, "traces": {"question": "2 + 3?", "answer": "5"}}
    rows["file"] |= {"level": "easy"} if level else {}
    rows["traces"] |= {"response": "5"}
    sources = []
    for kind, row in rows.items():
        (tmp_path / f"{kind}.jsonl").write_text(json.dumps(row))
        sources.append({"kind": kind, "path": str(tmp_path / f"{kind}.jsonl")})
    sources[1]["teacher"] = "other"
    (tmp_path / "prompt.txt").write_text("[user]\n{{ question }} ({{ level }})")
    recipe = Recipe.model_validate(
        {
            "run": "run",
            "ingest": {"sources": sources, "held_out": 0},
            "teacher": {"model": "m", "base_url": "http://localhost:1/v1"},
            "generate": {"prompt": str(tmp_path / "prompt.txt")},
        }
    )
    assert execute(INGEST, recipe, tmp_path / "run") == DONE
    job = Job(GENERATE, recipe, tmp_path / "run")
    claim(job, manifest_of(job))
    if level:
        prepare(training_job(recipe), job)
    else:
        with pytest.raises(UserError, match="cannot be filled for 1 of 1 problems"):
            prepare(training_job(recipe), job)
