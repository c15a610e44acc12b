"""Base and student asked with thinking on and off, by the switch that the training recorded."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import open_run
from pipeline.config import Recipe
from pipeline.config.load import load_recipe
from pipeline.config.mix import ThinkingSwitch
from pipeline.engine.execute import execute
from pipeline.engine.shard import Shard
from pipeline.engine.stage import Job
from pipeline.evaluate.models import eval_models, sampling_stages
from pipeline.inference.vllm_server import Server
from pipeline.inspect.score_table import print_table
from pipeline.stages import STAGES
from pipeline.train.job import Preflight
from tests.conftest import StartFakeServer
from tests.e2e.runs import write_recipe

EVALUATE = ("ingest.held_out=0.5", "evaluate.samples=2", "evaluate.max_tokens=64")
MIX = 'select.mix=[{kind="plain", share=0.3}]'


def trained(recipe: Recipe, folder: Path, switch: ThinkingSwitch | None) -> None:
    """Completes the stages before evaluate; the training leaves nothing but its preflight report."""

    def train(job: Job, shards: Iterable[Shard]) -> None:
        preflight = Preflight(
            checks=(), examples=0, left_out=(), supervised=0, longest=0, example="", thinking_switch=switch
        )
        (folder / "train/preflight.json").write_text(preflight.model_dump_json())
        job.output.write("steps", [])

    assert execute(STAGES["ingest"], recipe, folder) == 0
    assert execute(replace(STAGES["train"], reads=(), work=train, report=None), recipe, folder) == 0


def evaluate(recipe: Recipe, folder: Path, url: str) -> None:
    reached = Server(base_urls=(url,), model="fake")
    for model in eval_models(recipe, folder):
        for stage in sampling_stages(model, recipe, lambda job: nullcontext(reached)):
            assert execute(stage, recipe, folder) == 0
    assert execute(replace(STAGES["evaluate"], reads=(STAGES["ingest"],)), recipe, folder) == 0


@pytest.mark.parametrize("switch", ["enable_thinking", "user", "system"])
def test_each_form_is_asked_for_by_the_recorded_switch(
    switch: ThinkingSwitch, tmp_path: Path, fake_server: StartFakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server = fake_server("--correct", "0.7")
    recipe = load_recipe(write_recipe(tmp_path, server.url, count=10), [*EVALUATE, MIX])
    folder = tmp_path / "test"
    trained(recipe, folder, switch)
    evaluate(recipe, folder, server.url)
    scores = list(open_run(folder).scores)
    found = {(s.model_role, s.mode, s.with_reasoning) for s in scores}
    assert found == {
        *((role, "reasoning", 2) for role in ("teacher", "base", "student")),
        *((role, "plain", 0) for role in ("plain-base", "plain-student")),
    }
    assert all(s.malformed == 0 for s in scores if s.mode == "plain")
    table = open_run(folder).report("evaluate")["table"]
    assert {row["obedient"] for row in table} == {1.0}
    assert {c["other"] for c in open_run(folder).report("evaluate")["student"]} == {"base", "teacher"}
    print_table(open_run(folder))
    said = capsys.readouterr().out
    assert "as asked" in said
    assert "plain-student" in said
    asked = server.stats()["requests"]
    evaluate(recipe, folder, server.url)
    assert server.stats()["requests"] == asked


def test_an_answer_in_the_other_form_counts_as_disobedient(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    """The server knows no variable of another name, so it thinks on."""
    server = fake_server("--correct", "0.7")
    given = [
        *EVALUATE,
        MIX,
        "select.thinking_switch=thinking",
        "student.extra_body={chat_template_kwargs={enable_thinking=false}}",
    ]
    recipe = load_recipe(write_recipe(tmp_path, server.url, count=10), given)
    folder = tmp_path / "test"
    trained(recipe, folder, None)
    evaluate(recipe, folder, server.url)
    obedient = {row["model_role"]: row["obedient"] for row in open_run(folder).report("evaluate")["table"]}
    assert obedient == {"teacher": 1, "base": 0, "student": 0, "plain-base": 1, "plain-student": 1}


def test_without_a_mix_one_form_is_asked_for_as_before(tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe(tmp_path, "http://127.0.0.1:9/v1"), EVALUATE)
    models = eval_models(recipe, tmp_path)
    assert [(m.role, m.mode, m.switch) for m in models] == [
        (role, "reasoning", None) for role in ("teacher", "base", "student")
    ]


def test_a_training_that_recorded_no_switch_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.errors import UserError

    recipe = load_recipe(
        write_recipe(tmp_path, "http://127.0.0.1:9/v1"), [*EVALUATE, 'evaluate.modes=["plain"]']
    )
    folder = tmp_path / "test"
    trained(recipe, folder, None)
    with pytest.raises(UserError, match=r"evaluate.modes: .* set select.thinking_switch"):
        execute(replace(STAGES["evaluate"], reads=(STAGES["ingest"],)), recipe, folder)
