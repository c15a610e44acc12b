"""The Slurm script, run with shell scripts in place of srun, scontrol and retort."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli.main import cli
from pipeline.errors import UserError

RECIPE = """
run = "sums"
[[ingest.sources]]
kind = "file"
path = "problems.jsonl"
[teacher]
model = "teacher"
base_url = "http://127.0.0.1:1/v1"
[generate]
prompt = "arithmetic"
[student]
model = "org/name"
[train]
batch_size = 32
micro_batch_size = 2
"""
# One task per node, one after the other. The highest exit code counts, as with the real srun.
SRUN = """\
echo "srun $1 $2" >>words
tasks=$SLURM_JOB_NUM_NODES worst=0
while [ "${1#--}" != "$1" ]; do
    case "$1" in --nodes=*) tasks=${1#--nodes=} ;; esac
    shift
done
for ((task = 0; task < tasks; task++)); do
    SLURM_PROCID=$task SLURM_NTASKS=$tasks "$@"
    code=$?
    [ $code -le $worst ] || worst=$code
done
exit $worst
"""


def script(folder: Path, *options: str) -> str:
    (folder / "a recipe.toml").write_text(RECIPE)
    words = ["--runs", str(folder / "runs"), "sbatch", str(folder / "a recipe.toml"), *options]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.output


def run(folder: Path, *words: str, nodes: int = 1, retort: str = "", **env: str) -> tuple[int, list[str]]:
    """Returns the job's exit code and the commands it started; `retort`: the body of a fake ./run.sh."""
    options = ("--nodes", str(nodes), "--gpus-per-node", "4", "student.model=x y")
    (folder / "job.sh").write_text(script(folder, *options))
    show = 'echo "${3##*/}" "${@:5}" >>words'  # without --runs FOLDER and the recipe
    for name, body in (
        ("srun", SRUN),
        ("scontrol", 'echo scontrol "$@" >>words'),
        ("run.sh", f"{show}\n{retort}"),
    ):
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    job = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": str(nodes)}
    done = subprocess.run(["bash", "job.sh", *words], cwd=folder, env=job | env, timeout=60)
    return done.returncode, (folder / "words").read_text().splitlines()


def test_bash_can_read_the_script_and_slurm_its_head(tmp_path: Path) -> None:
    text = script(tmp_path, "--nodes", "2", "--time", "2-00:00:00", "student.model=a; touch $(evil)")
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    asked = {line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert {"job-name=retort-sums", "nodes=2", "gpus-per-node=8", "cpus-per-task=64"} <= asked
    assert {"time=2-00:00:00", "signal=TERM@900", "requeue"} <= asked
    assert "'student.model=a; touch $(evil)')" in text


def test_one_node_runs_the_stages_one_after_the_other(tmp_path: Path) -> None:
    code, words = run(tmp_path)
    stages = ["ingest", "generate", "filter", "select", "train", "evaluate"]
    assert code == 0
    assert [word for word in words if not word.startswith("srun")] == [
        f"{stage} student.model=x y" for stage in stages
    ]


def test_several_nodes_share_the_shards_and_train_together(tmp_path: Path) -> None:
    code, words = run(tmp_path, "generate", "train", nodes=2)
    processes = "student.model=x y train.accelerate.num_processes=8"
    assert code == 0
    assert words == [
        "srun --kill-on-bad-exit=0 --wait=0",
        f"generate {processes} --part 0/2",
        f"generate {processes} --part 1/2",
        "srun --nodes=1 --ntasks=1",
        f"generate {processes}",
        "srun --kill-on-bad-exit=1 ./run.sh",
        f"train {processes}",
        f"train {processes}",
    ]


def test_the_shards_that_a_node_failed_are_left_to_the_command_that_finishes(tmp_path: Path) -> None:
    fails = 'case "$*" in *0/2) exit 3 ;; esac'
    code, words = run(tmp_path, "generate", nodes=2, retort=fails)
    assert (code, words[-1]) == (0, "generate student.model=x y train.accelerate.num_processes=8")
    code, words = run(tmp_path, "generate", nodes=2, retort=fails.replace("exit 3", "exit 137"))
    assert (code, words[-1]) == (0, "generate student.model=x y train.accelerate.num_processes=8")
    code, words = run(tmp_path, "generate", nodes=2, retort='case "$*" in *0/2) exit 130 ;; esac')
    assert (code, words[-1]) == (0, "scontrol requeue 7")


def test_the_recovery_of_compress_trains_with_the_gpus_of_one_node(tmp_path: Path) -> None:
    _, words = run(tmp_path, "compress", nodes=2)
    assert words[-1] == "compress student.model=x y train.accelerate.num_processes=4"
    _, words = run(tmp_path, "compress")
    assert words[-1] == "compress student.model=x y"


def test_a_task_of_an_array_does_its_share_alone(tmp_path: Path) -> None:
    array = {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_COUNT": "100"}
    code, words = run(tmp_path, "generate", **array)
    assert (code, words) == (0, ["srun --nodes=1 --ntasks=1", "generate student.model=x y --part 2/100"])


@pytest.mark.parametrize(
    ("code", "again"),
    [(0, False), (1, False), (2, False), (3, True), (130, True), (137, True), (143, True)],
)
def test_the_exit_code_decides_whether_the_job_is_requeued(tmp_path: Path, code: int, again: bool) -> None:
    found, words = run(tmp_path, "select", "evaluate", retort=f"exit {code}")
    assert ("scontrol requeue 7" in words) == again
    assert found == (0 if again else code)
    assert ("evaluate student.model=x y" in words) == (code == 0)


def test_a_job_is_not_requeued_after_the_last_restart(tmp_path: Path) -> None:
    code, words = run(tmp_path, "select", retort="exit 3", SLURM_RESTART_COUNT="4", RETORT_MOST_RESTARTS="4")
    assert (code, "scontrol requeue 7" in words) == (3, False)


@pytest.mark.parametrize(("given", "expected"), [({}, "gpu"), ({"RETORT_KIND": "cpu"}, "cpu")])
def test_a_job_sets_up_for_gpus_by_default(tmp_path: Path, given: dict[str, str], expected: str) -> None:
    run(tmp_path, "select", retort='echo "$RETORT_KIND" >kind', **given)
    assert (tmp_path / "kind").read_text() == f"{expected}\n"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--nodes", "3"), "batch_size = 32 is not a multiple of micro_batch_size x processes = 2 x 24"),
        (("--time", "soon"), "--time soon: write it as Slurm does"),
    ],
)
def test_a_job_that_could_not_run_is_not_printed(tmp_path: Path, options: tuple[str, ...], why: str) -> None:
    with pytest.raises(UserError, match=why):
        script(tmp_path, *options)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text(script(tmp_path))
    done = subprocess.run(["shellcheck", str(tmp_path / "job.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
