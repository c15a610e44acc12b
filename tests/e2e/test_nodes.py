"""Training over two nodes: two real `retort train`, started as srun does, on the loopback of one machine."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.config.load import load_recipe
from pipeline.engine.changed_settings import manifest_of
from pipeline.engine.stage import Job
from pipeline.hardware import has_gpu
from pipeline.stages import STAGES
from pipeline.train import checkpoints
from pipeline.train.job import last_step, read_steps
from tests import tiny_student

pytest.importorskip("trl")
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(has_gpu(), reason="two processes need two GPUs"),
]

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """
run = "{run}"
[[ingest.sources]]
kind = "file"
path = "problems.jsonl"
[teacher]
model = "teacher"
base_url = "http://127.0.0.1:1/v1"
[generate]
prompt = "arithmetic"
[student]
model = "{student}"
[train]
learning_rate = 3e-3
precision = "fp32"
batch_size = 8
save_steps = 5
"""


def prepared(folder: Path, run: str) -> Path:
    """The recipe of a run whose examples are selected."""
    student = tiny_student.save(folder / "student")
    recipe = folder / f"{run}.toml"
    recipe.write_text(RECIPE.format(run=run, student=student))
    for stage in STAGES["train"].reads:
        job = Job(stage, load_recipe(recipe), folder / run)
        job.output.save(manifest_of(job).model_copy(update={"shards": None}))
        if stage.name == "select":
            job.output.write("shard-00000", [tiny_student.example(n) for n in range(37)])
        job.output.finish()
    return recipe


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _no_training_outlives_its_test() -> Iterator[None]:
    yield
    while _started:
        with _started.pop() as process:  # closes its output
            process.kill()


def start(recipe: Path, environment: dict[str, str], *overrides: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "--runs", str(recipe.parent), "train", str(recipe), *overrides],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    _started.append(process)
    return process


def start_nodes(recipe: Path, *overrides: str) -> list[subprocess.Popen[str]]:
    """Starts two nodes. The second one starts first and has to wait."""
    step = {
        "SLURM_JOB_ID": str(random.randrange(10**6)),  # for a port of its own
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
    }
    last, first = (
        start(recipe, step | {"SLURM_NODEID": rank}, "train.micro_batch_size=4", *overrides) for rank in "10"
    )
    return [first, last]


def outcome(process: subprocess.Popen[str], seconds: float = 1200) -> tuple[int, str]:
    out, _ = process.communicate(timeout=seconds)
    return process.returncode, out


def wait_until(condition: Callable[[], object], processes: list[subprocess.Popen[str]]) -> None:
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)


def steps_done(run: Path) -> int:
    step = last_step(run / "train" / "log.jsonl")
    return step.step if step else 0


def test_two_nodes_train_as_one(tmp_path: Path) -> None:
    one, two = (prepared(tmp_path, name) for name in ("one", "two"))
    code, out = outcome(start(one, {}, "train.micro_batch_size=8", "train.epochs=2"))
    assert code == 0, out
    for node in start_nodes(two, "train.epochs=2"):
        code, out = outcome(node)
        assert code == 0, out
    ours, theirs = (list(read_steps(tmp_path / run / "train" / "log.jsonl")) for run in ("two", "one"))
    assert len(ours) == len(theirs) == 10
    assert [s.loss for s in ours] == pytest.approx([s.loss for s in theirs], rel=1e-3)
    assert [s.tokens for s in ours] == [s.tokens for s in theirs]
    assert (tmp_path / "two" / "train" / "model").is_dir()
    assert (tmp_path / "two" / "logs" / "train-1.log").exists()
    code, out = outcome(start_nodes(two, "train.epochs=2")[1])
    assert (code, "nothing to train" in out) == (0, True), out


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_node_ends_the_other_and_the_same_command_resumes(tmp_path: Path, victim: int) -> None:
    """And SIGTERM, for all nodes or for one, saves a checkpoint."""
    recipe = prepared(tmp_path, "test")
    nodes = start_nodes(recipe, "train.epochs=400")
    wait_until(lambda: steps_done(tmp_path / "test") >= 8, nodes)
    nodes[victim].kill()
    code, out = outcome(nodes[1 - victim])
    assert code == 3, out
    host = "localhost" if victim == 0 else socket.gethostname()
    assert f"node {victim} ({host}) is lost" in out
    nodes[victim].wait()
    folder = tmp_path / "test" / "train" / "checkpoints"
    kept = checkpoints.newest(folder)
    assert kept is not None
    steps = steps_done(tmp_path / "test")  # some of them again
    again = start_nodes(recipe, "train.epochs=400", "train.save_steps=10000")
    wait_until(lambda: steps_done(tmp_path / "test") > steps, again)
    assert f"from {kept}" in (tmp_path / "test" / "logs" / "train.log").read_text()
    for node in again if victim == 0 else again[1:]:
        node.send_signal(signal.SIGTERM)
    assert [outcome(node)[0] for node in again] == ([130, 130] if victim == 0 else [3, 130])
    assert checkpoints.newest(folder) not in (None, kept)
