"""The generation of traces: sampled, stated later, published, and read back."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline import run_stage
from pipeline.config import Recipe
from pipeline.errors import UserError
from pipeline.publish import publish
from pipeline.publish.formats import WHOLE
from tests.conftest import StartFakeServer
from tests.e2e.runs import write_recipe

STAGES = ("ingest", "generate", "filter", "select")


def test_a_generation_goes_with_the_traces_through_publish_and_back(
    fake_server: StartFakeServer, tmp_path: Path
) -> None:
    server = fake_server()
    recipe = write_recipe(tmp_path, server.url, 8)
    for stage in STAGES[:2]:
        run = run_stage(stage, recipe, runs=tmp_path)
    assert {trace.teacher_generation for trace in run.rows("generate")} == {None}
    asked = server.stats()["requests"]
    for stage in STAGES[1:]:
        run = run_stage(stage, recipe, "teacher.generation=2", runs=tmp_path)
    assert server.stats()["requests"] == asked  # stating it later costs nothing
    assert {trace.teacher_generation for trace in run.rows("generate")} == {"2"}

    publish(run, str(tmp_path / "out"), with_traces=True, student_formats=(WHOLE,), private=True)
    for config in ("data", "traces"):
        (file,) = (tmp_path / "out" / config).glob("train-*.parquet")
        assert set(pq.read_table(file)["teacher_generation"].to_pylist()) == {"2"}
    assert "- fake, generation 2\n" in (tmp_path / "out" / "README.md").read_text()

    given = {
        "run": "back",
        "ingest": {
            "held_out": 0.0,
            "sources": [{
                "kind": "traces", "path": str(file), "reference": "reference", "reasoning": "reasoning",
                "teacher_column": "teacher", "trace_id": "id",
            }],
        },
        "student": {"model": "org/base"},
        "train": {"max_generation": 2},
    }  # fmt: skip
    back = Recipe.model_validate(given)
    for stage in STAGES:
        run = run_stage(stage, back, runs=tmp_path)
    assert {trace.teacher_generation for trace in run.rows("generate")} == {"2"}
    with pytest.raises(UserError, match=r"of generation 3 or more, over train\.max_generation = 2: fake is"):
        run_stage("train", back, runs=tmp_path)
