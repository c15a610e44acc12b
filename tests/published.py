"""A small run for the tests of publishing, from the fake server. Its student and scores are written here."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline import open_run
from pipeline.config.load import load_recipe
from pipeline.engine.execute import DONE, execute
from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.inspect.run import Run
from pipeline.model_rows import Score, Step
from pipeline.stages import STAGES
from tests import tiny_student
from tests.conftest import FakeServer
from tests.e2e.runs import write_recipe

SECRET = "planted-7f3a"  # in each setting that may contain a secret
STATED = """
licence = "mit"
terms = "https://example.com/terms"
api_key_env = "RETORT_TEST_KEY"
env = {{ ANOTHER_KEY = "{secret}" }}
extra_body = {{ user = "{secret}", top_k = 20 }}
"""
OWN_RULE = """from filters.result import failed, passed


def not_the_last(trace):
    return failed("sample 3") if trace.sample == 3 else passed()
"""
NAMES = ("ingest", "generate", "filter", "select")


def make(folder: Path, stated: str = STATED) -> Run:
    """Runs ingest to select, with at most two examples per problem, some of them for validation."""
    server = FakeServer("--malformed", "0.2", "--truncated", "0.1", "--correct", "0.5")
    try:
        recipe = write_recipe(folder, server.url)
        text = recipe.read_text().replace("[generate]", stated.format(secret=SECRET) + "\n[generate]")
        (own := folder / "my_rules.py").write_text(OWN_RULE)
        text += f'\n[filter.rules."{own}:not_the_last"]\n'
        recipe.write_text(text.replace('kind = "file"', 'kind = "file"\nlicence = "cc0-1.0"'))
        wanted = ("select.per_problem=2", "select.validation=0.3")
        given = load_recipe(recipe, wanted)
        for stage in NAMES:
            assert execute(STAGES[stage], given, folder / "test") == DONE
    finally:
        server.stop()
    return open_run(folder / "test")


def add_student(run: Run) -> None:
    """Writes the output of the train stage without a training."""
    select = run.output("select").manifest()
    assert select is not None
    settings = {"epochs": 2.0, "student": str(run.path / "models" / "tiny"), "lora": {"rank": 16}}
    settings["logit_kd"] = {"teachers": [{"model": str(run.path / "models" / "big"), "weight": 1.0}]}
    output = Output(run.path / "train", Step)
    output.save(Manifest(stage="train", version=1, settings=settings, inputs={"select": select.content_id}))
    model = tiny_student.save(run.path / "train" / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"_name_or_path": str(run.path)}))
    output.write("steps", [])
    output.finish({"last_loss": 0.5})


def add_scores(run: Run) -> None:
    """Writes the scores of teacher, base and student on ten held-out problems, four samples each."""
    train = run.output("train").manifest()
    assert train is not None
    output = Output(run.path / "evaluate", Score)
    said = {"temperature": 0.6, "top_p": 0.95, "max_tokens": 512}
    output.save(Manifest(stage="evaluate", version=1, settings=said, inputs={"train": train.content_id}))
    correct = {"teacher": 3, "base": 1, "student": 2}
    output.write("scores", [_score(run, s, n, number) for s, number in correct.items() for n in range(10)])
    output.finish()


def _score(run: Run, role: str, index: int, correct: int) -> Score:
    return Score(
        id=f"held_out/{role}/{index}",
        set="held_out",
        model_role=role,
        model=str(run.path / "models" / "tiny"),
        prompt="plain",
        problem_id=str(index),
        source="problems",
        samples=4,
        correct=correct if index % 2 else 1,
        majority=1,
        undecided=0,
        truncated=0,
        malformed=0,
        failed=0,
        completion_tokens=100,
    )
