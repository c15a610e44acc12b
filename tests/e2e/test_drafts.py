"""What a student is worth as a draft of its teacher, by real models on answers of the fake server."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import open_run
from pipeline.config import Recipe
from pipeline.config.load import load_recipe
from pipeline.engine.execute import execute
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.errors import UserError
from pipeline.evaluate import drafts
from pipeline.evaluate.models import eval_models, sampling_stages
from pipeline.inference.vllm_server import Server
from pipeline.report.build import write_report
from pipeline.stages import STAGES
from pipeline.train.stage import model_folder
from tests import tiny_student
from tests.conftest import StartFakeServer
from tests.e2e.runs import retort, write_recipe

pytest.importorskip("trl")


def trained(job: Job, shards: Iterable[Shard]) -> None:
    tiny_student.save(model_folder(job.run_dir))
    job.output.write("steps", [])


def recipe_of(folder: Path, teacher: Path, url: str, *settings: str) -> Recipe:
    """A recipe whose teacher is served here, and whose student begins as the teacher."""
    text = write_recipe(folder, url).read_text()
    before, _, after = text.partition("[teacher]")
    rest = after.partition("[generate]")[2].partition("[student]")[0]
    models = f'[student]\nmodel = "{teacher}"\n[teacher]\nmodel = "{teacher}"\nserve = "vllm"\n'
    (folder / "recipe.toml").write_text(f"{before}[generate]{rest}{models}")
    held_out = ("ingest.held_out=0.5", "evaluate.samples=2", "evaluate.max_tokens=64")
    return load_recipe(folder / "recipe.toml", [*held_out, "evaluate.draft_tokens=3", *settings])


def made(recipe: Recipe, folder: Path, url: str) -> int:
    """Runs the stages up to evaluate, whose models are all the fake server."""
    ingest, select = STAGES["ingest"], replace(STAGES["select"], reads=(), shards_from=None, report=None)
    chosen = replace(select, shards=("examples",), work=lambda job, _: job.output.write("examples", []))
    train = replace(STAGES["train"], reads=(chosen,), work=trained, report=None)
    reached = Server(base_urls=(url,), model="fake")
    sampled = [
        stage
        for model in eval_models(recipe, folder)
        for stage in sampling_stages(model, recipe, lambda job: nullcontext(reached))
    ]
    for stage in (ingest, chosen, train, *sampled):
        assert execute(stage, recipe, folder) == 0
    return execute(STAGES["evaluate"], recipe, folder)


def test_base_and_student_are_measured_as_drafts_of_the_teacher(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--correct", "0.7", "--malformed", "0")
    teacher = tiny_student.save(tmp_path / "teacher", layers=3)
    assert made(recipe_of(tmp_path, teacher, server.url), tmp_path / "test", server.url) == 0
    run = open_run(tmp_path / "test")
    found = {line["model_role"]: line for line in run.report("evaluate")["drafts"]}
    assert list(found) == ["base", "student"]
    assert found["base"]["acceptance"] == pytest.approx([1, 1, 1], abs=1e-5)  # it is the teacher
    assert found["base"]["accepted"][0] == pytest.approx(4, abs=1e-4)
    alpha, low, high = found["student"]["acceptance"]
    assert 0 < low <= alpha <= high < 1
    assert found["student"]["problems"] == found["base"]["problems"] > 0

    shown = retort(tmp_path, "status", "test").stdout
    assert "tokens/pass, 3 proposed" in shown
    page = write_report(run, tmp_path / "report.html").read_text()
    assert "Models as drafts of a teacher" in page
    files = tmp_path / "test/evaluate/held_out/teacher/drafts"
    before = {path: path.stat().st_mtime_ns for path in files.glob("*.parquet")}
    again = recipe_of(tmp_path, teacher, server.url, "evaluate.draft_tokens=5")
    assert execute(STAGES["evaluate"], again, tmp_path / "test") == 0
    assert {path: path.stat().st_mtime_ns for path in files.glob("*.parquet")} == before
    assert open_run(tmp_path / "test").report("evaluate")["drafts"][0]["draft_tokens"] == 5


def test_another_vocabulary_is_refused_before_anything_is_sampled(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server()
    teacher = tiny_student.save(tmp_path / "teacher")
    tokenizer = tiny_student.tokenizer()
    tokenizer.add_tokens(["<|extra|>"])
    tokenizer.save_pretrained(teacher)
    recipe = recipe_of(tmp_path, teacher, server.url)
    tiny_student.save(model_folder(tmp_path / "test"))
    job = Job(STAGES["evaluate"], recipe, tmp_path / "test")
    with pytest.raises(UserError, match=r"its vocabulary is not that of .*teacher.*'<\|extra\|>'"):
        drafts.check_vocabularies(job)
    assert server.stats()["requests"] == 0


def test_a_teacher_behind_a_url_is_refused(tmp_path: Path) -> None:
    def checked(**tables: Any) -> None:
        plain = tiny_student.recipe().model_dump(mode="json", exclude_defaults=True)
        plain["evaluate"] = {"draft_tokens": 4}
        drafts.check(Recipe.model_validate(json.loads(json.dumps(plain | tables))))

    with pytest.raises(UserError, match=r"needs the weights of the teacher teacher, .* its URL"):
        checked()
    with pytest.raises(UserError, match="the recipe needs both tables"):
        checked(student=None)
