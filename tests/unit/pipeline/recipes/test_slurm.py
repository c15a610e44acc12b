"""The Slurm script with fake run and scontrol commands: signals, exit codes, requeueing."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[4] / "pipeline" / "recipes" / "slurm.sh"
SAVES = "trap 'echo saved >>saved; exit 130' TERM; touch ready; while :; do sleep 0.05; done"


def start(folder: Path, run: str, **env: str) -> subprocess.Popen[str]:
    """Starts the script as a job; `run`: the body of a fake ./run.sh."""
    for name, body in (("run", run), ("scontrol", 'echo "$@" >>requeued')):
        (folder / name).write_text(f'#!/usr/bin/env bash\necho "$@" >>{name}.words\n{body}\n')
        (folder / name).chmod(0o755)
    job = {"PATH": f"{folder}:{os.environ['PATH']}", "RETORT": "./run", "SLURM_JOB_ID": "7"} | env
    return subprocess.Popen(
        ["bash", str(SCRIPT), "recipe.toml", "run=x"],
        cwd=folder,
        env=job,
        stderr=subprocess.PIPE,
        text=True,
    )


def requeued(folder: Path) -> list[str]:
    path = folder / "requeued"
    return path.read_text().splitlines() if path.exists() else []


def test_sigterm_reaches_the_run_and_the_job_is_requeued(tmp_path: Path) -> None:
    job = start(tmp_path, SAVES)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    _, output = job.communicate(timeout=60)
    assert job.returncode == 0, output
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert requeued(tmp_path) == ["requeue 7"]
    assert (tmp_path / "run.words").read_text() == "run recipe.toml run=x\n"


@pytest.mark.parametrize(
    ("code", "again"), [(0, False), (1, False), (2, False), (3, True), (130, True), (143, True)]
)
def test_the_exit_code_decides_whether_the_job_is_requeued(tmp_path: Path, code: int, again: bool) -> None:
    job = start(tmp_path, f"exit {code}")
    job.communicate(timeout=60)
    assert requeued(tmp_path) == (["requeue 7"] if again else [])
    assert job.returncode == (0 if again else code)


@pytest.mark.parametrize(("given", "expected"), [({}, "gpu"), ({"RETORT_KIND": "cpu"}, "cpu")])
def test_a_job_sets_up_for_gpus_by_default(tmp_path: Path, given: dict[str, str], expected: str) -> None:
    start(tmp_path, 'echo "$RETORT_KIND" >kind', **given).communicate(timeout=60)
    assert (tmp_path / "kind").read_text() == f"{expected}\n"


def test_a_job_is_not_requeued_after_the_last_restart(tmp_path: Path) -> None:
    job = start(tmp_path, "exit 3", SLURM_RESTART_COUNT="4", RETORT_MOST_RESTARTS="4")
    job.communicate(timeout=60)
    assert (job.returncode, requeued(tmp_path)) == (3, [])


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
