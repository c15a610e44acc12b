"""A user's own pipeline.py, filters.py and prompts/ in the working directory are not imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.train import Train
from pipeline.train import launcher
from pipeline.train.job import TrainJob
from tests.conftest import StartFakeServer
from tests.e2e.runs import ROOT, write_recipe

RAISES = 'raise SystemExit("the wrong module")\n'
GYM = """
[[ingest.sources]]
kind = "reasoning_gym"
task = "chain_sum"
size = 5
[teacher]
"""
# Filters run in separate processes, however few the traces are.
POOLED = """
from pipeline.filter import apply
apply.MIN_PARALLEL_ROWS = 0
from pipeline.cli.main import main
main()
"""


def folder_of(tmp_path: Path, *modules: str) -> Path:
    folder = tmp_path / "mine"
    for module in modules:
        path = folder / module
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(RAISES)
    return folder


def ran(folder: Path, *line: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("start", ["script", "module"])
def test_stages_run_in_a_folder_with_modules_of_the_same_names(
    start: str, tmp_path: Path, fake_server: StartFakeServer
) -> None:
    mine = ["filters.py", "prompts/__init__.py", *(["pipeline.py"] if start == "script" else [])]
    folder = folder_of(tmp_path, *mine)
    recipe = write_recipe(folder, fake_server("--correct", "0.7").url, count=10)
    recipe.write_text(recipe.read_text().replace("[teacher]", GYM))
    script = (sys.executable, "-P", "-c", "from pipeline.__main__ import main; main()")
    retort = {"script": script, "module": (sys.executable, "-m", "pipeline")}[start]
    for stage in ("ingest", "generate", "filter", "select"):
        pooled = (sys.executable, "-P", "-c", POOLED)
        line = pooled if stage == "filter" and start == "script" else retort
        done = ran(folder, *line, stage, str(recipe))
        assert done.returncode == 0, done.stderr
        assert "wrong module" not in done.stderr


def test_the_training_and_its_subprocesses_import_our_modules(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "filters.py", "prompts/__init__.py", "pipeline.py")
    todo = TrainJob(
        model="", examples=(), output=tmp_path / "model", checkpoints=tmp_path / "checkpoints", train=Train()
    )
    env = launcher.environment(todo) | {"PYTHONPATH": str(ROOT)}
    line = launcher.command({}, tmp_path / "nowhere.json")
    done = subprocess.run(line, cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    assert "wrong module" not in done.stdout + done.stderr
    assert "nowhere.json" in done.stderr  # it started and looked for its job
