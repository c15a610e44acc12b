"""From a fake server to mixed examples and pairs, their preflight, and short real trainings on them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline import open_run
from pipeline.engine.execute import DONE, execute
from pipeline.engine.options import Options
from pipeline.model_rows import Step
from pipeline.train.job import TrainJob, read_preflight
from pipeline.train.stage import TRAIN, model_folder
from tests import tiny_student
from tests.conftest import FakeServer
from tests.e2e.runs import PROBLEMS, run_stages, write_recipe
from tests.tiny_student import CHATML, SWITCHED

pytest.importorskip("trl")

MIX = """
[select]
rejected = true
[[select.mix]]
kind = "plain"
share = 0.3
[[select.mix]]
kind = "chat"
name = "words"
path = "{chat}"
share = 0.2
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and its run up to select."""
    made = tmp_path_factory.mktemp("mix")
    server = FakeServer("--correct", "0.6")
    recipe = write_recipe(made, server.url)
    turns = [{"role": "user", "content": "Say {n}."}, {"role": "assistant", "content": "{n}."}]
    rows = [[{k: v.replace("{n}", str(n)) for k, v in turn.items()} for turn in turns] for n in range(60)]
    (made / "chat.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    recipe.write_text(recipe.read_text() + MIX.format(chat=made / "chat.jsonl"))
    run_stages(made, recipe, "ingest", "generate", "filter", "select")
    server.stop()
    return made


def test_the_examples_are_mixed_and_counted(folder: Path) -> None:
    run = open_run(folder / "test")
    examples = list(run.examples)
    kinds = Counter(example.kind for example in examples)
    assert kinds["plain"] / len(examples) == pytest.approx(0.3, abs=0.15)
    assert kinds["chat"] / len(examples) == pytest.approx(0.2, abs=0.05)
    assert len({e.problem_id for e in examples if e.kind == "plain"}) > PROBLEMS / 8
    report = run.report("select")
    assert report["pairs"] == sum(e.rejected is not None for e in examples) > 0
    assert "<think>" not in "".join(e.rejected or "" for e in examples if e.kind == "plain")


def job_of(folder: Path, out: Path, template: str, **train: Any) -> TrainJob:
    student = tiny_student.save(out / "student", template=template)
    files = tuple(sorted((folder / "test/select").glob("*.parquet")))
    made = tiny_student.job(out, student, files, precision="fp32", **train)
    return made.model_copy(update={"mixed": True})


@pytest.mark.parametrize("template", [CHATML, SWITCHED])
@pytest.mark.parametrize("objective", ["sft", "redi"])
def test_the_preflight_passes_both_forms_and_both_traces(
    folder: Path, template: str, objective: str, tmp_path: Path
) -> None:
    from pipeline.train.trainer.prepare import prepare

    job = job_of(folder, tmp_path, template, objective=objective)
    prepare(job)
    preflight = read_preflight(job.preflight)
    assert preflight is not None
    assert not preflight.failed
    examples = list(open_run(folder / "test").examples)
    pairs = [e for e in examples if e.rejected is not None]
    assert preflight.examples == (2 * len(pairs) if objective == "redi" else len(examples))


@pytest.mark.alone
@pytest.mark.parametrize("objective", ["redi", "dpo"])
def test_a_student_is_trained_on_the_pairs(folder: Path, objective: str, tmp_path: Path) -> None:
    student = tiny_student.save(tmp_path / "student", template=SWITCHED)
    recipe = open_run(folder / "test").recipe
    train = {
        "objective": objective,
        "epochs": 2,
        "micro_batch_size": 8,
        "learning_rate": 1e-3,
        "save_steps": 5,
    }
    recipe = recipe.model_validate(recipe.model_dump() | {"train": train, "student": {"model": str(student)}})
    assert execute(TRAIN, recipe, folder / "test", Options(again=True)) == DONE
    steps: list[Step] = list(TRAIN.output(folder / "test").rows())
    losses = [step.loss for step in steps if step.loss is not None]
    assert losses[-1] < losses[0]
    assert (model_folder(folder / "test") / "config.json").exists()
