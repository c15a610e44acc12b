"""Training in two processes on CPUs: data parallel, ZeRO-3, FSDP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.base import Scalar
from pipeline.config.train import KDTeacher
from pipeline.engine.subprocess_guard import Child
from pipeline.hardware import has_gpu
from pipeline.train.job import TrainJob, read_steps
from pipeline.train.launcher import command, environment
from tests import tiny_student

pytest.importorskip("trl")
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(has_gpu(), reason="two processes need two GPUs"),
]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_student.save(tmp_path_factory.mktemp("tiny") / "student")


@pytest.fixture(scope="module")
def alone(student: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    return trained(tmp_path_factory.mktemp("alone"), student, 8, {})


def job_of(
    folder: Path, student: Path, micro_batch: int, accelerate: dict[str, Scalar], epochs: int = 2, **more: Any
) -> TrainJob:
    # 37: the last step of an epoch is short, and shorter in one of two processes
    rows = [tiny_student.example(n) for n in range(37)]
    settings: dict[str, Any] = {"learning_rate": 3e-3, "save_steps": 5, "precision": "fp32"}
    settings |= {"epochs": epochs, "batch_size": 8, "micro_batch_size": micro_batch, "accelerate": accelerate}
    settings |= more
    shard = tiny_student.write_examples(folder / "s.parquet", rows)
    return tiny_student.job(folder, student, (shard,), **settings).model_copy(update={"seed": 7})


def write_job(job: TrainJob) -> Path:
    file = job.output.parent / "job.json"
    file.write_text(job.model_dump_json())
    return file


def trained(
    folder: Path, student: Path, micro_batch: int, accelerate: dict[str, Scalar], **more: Any
) -> TrainJob:
    job = job_of(folder, student, micro_batch, accelerate, **more)
    if "features" in more or more.get("objective") == "logit_kd":
        teacher = tiny_student.save(folder / "teacher", layers=4, hidden=96)
        job = job.model_copy(update={"teachers": (KDTeacher(model=str(teacher)),)})
    log = folder / "train.log"
    with Child(command(accelerate, write_job(job)), log, environment(job)) as child:
        assert child.wait(timeout=1200) == 0, child.log_tail(50)
    return job


def assert_ends_alike(job: TrainJob, alone: TrainJob, tolerance: float) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    ours, theirs = ([s.loss for s in read_steps(j.log) if s.loss is not None] for j in (job, alone))
    assert len(ours) == len(theirs) == 10
    assert ours[-1] == pytest.approx(theirs[-1], rel=1e-3)
    assert [s.tokens for s in read_steps(job.log)] == [s.tokens for s in read_steps(alone.log)]
    weights, expected = (AutoModelForCausalLM.from_pretrained(j.output).state_dict() for j in (job, alone))
    for name, tensor in weights.items():
        assert torch.allclose(tensor, expected[name], atol=tolerance), name


TERMS: dict[str, Any] = {
    "objective": "logit_kd",
    "features": {},
    "attention_transfer": {"weight": 100},
    "relations": {"weight": 10},  # over the examples of both processes
}


@pytest.fixture(scope="module")
def alone_with_terms(student: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    return trained(tmp_path_factory.mktemp("terms"), student, 8, {}, **TERMS)


def test_two_processes_train_white_box_terms_as_one(
    student: Path, alone_with_terms: TrainJob, tmp_path: Path
) -> None:
    alone = alone_with_terms
    job = trained(tmp_path, student, 4, {"num_processes": 2}, **TERMS)
    states = (job.checkpoints / "checkpoint-10").glob("rng_state*")
    assert {path.name for path in states} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert_ends_alike(job, alone, 1e-2)
    for name in ("loss_features", "loss_attention_transfer", "loss_relations"):
        ours, theirs = ([getattr(s, name) for s in read_steps(j.log)] for j in (job, alone))
        assert ours == pytest.approx(theirs, rel=2e-3)


def test_two_processes_with_zero3_train_as_one(
    student: Path, alone: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    zero3 = str(Path(__file__).resolve().parents[2] / "pipeline" / "recipes" / "zero3.yaml")
    job = trained(tmp_path, student, 4, {"config_file": zero3, "num_processes": 2})
    assert_ends_alike(job, alone, 1e-5)


SHARED = """
# The training with accelerate made to take CPUs for GPUs, so that it shards.
import sys
import torch
import torch.distributed.fsdp as fsdp
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType

begin, shard = PartialState.__init__, fsdp.fully_shard
def as_gpus(self, *args, **settings):
    begin(self, *args, **settings)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU
def watched(module, **settings):
    policy = settings["mp_policy"]
    print("sharded", policy.param_dtype, policy.reduce_dtype, policy.output_dtype, flush=True)
    group = torch.distributed.group.WORLD._get_backend(torch.device("cpu"))
    print("process timeout", group.options._timeout, flush=True)
    return shard(module, **settings)
def unsynced(*_):
    raise AssertionError("gradients would be unsharded")
PartialState.__init__, fsdp.fully_shard, Accelerator.no_sync = as_gpus, watched, unsynced
from pipeline.train.trainer import data
data.write_tokens = None  # only prepare.py writes tokens: one of these processes would let the others wait
from pipeline.train.trainer.launch import main
sys.exit(main(sys.argv[1]))
"""


def test_two_processes_with_fsdp_train_as_one(student: Path, alone: TrainJob, tmp_path: Path) -> None:
    """Gradients stay sharded between micro batches and are reduced in float32."""
    fsdp2 = str(Path(__file__).resolve().parents[2] / "pipeline" / "recipes" / "fsdp2.yaml")
    job = job_of(tmp_path, student, 2, {"config_file": fsdp2, "num_processes": 2})
    job = job.model_copy(update={"train": job.train.model_copy(update={"precision": "bf16"})})
    run_as(SHARED, job)
    log = (tmp_path / "train.log").read_text()
    assert {line for line in log.splitlines() if line.startswith("sharded")} == {
        "sharded torch.bfloat16 torch.float32 None"
    }
    assert "process timeout 12:00:00" in log
    ours, theirs = ([s.loss for s in read_steps(j.log) if s.loss is not None] for j in (job, alone))
    assert ours == pytest.approx(theirs, rel=2e-2)  # bfloat16 against float32
    assert [s.tokens for s in read_steps(job.log)] == [s.tokens for s in read_steps(alone.log)]


def test_a_teacher_is_sharded_with_fsdp(student: Path, alone_with_terms: TrainJob, tmp_path: Path) -> None:
    alone = alone_with_terms
    fsdp2 = str(Path(__file__).resolve().parents[2] / "pipeline" / "recipes" / "fsdp2.yaml")
    job = job_of(tmp_path, student, 4, {"config_file": fsdp2, "num_processes": 2}, **TERMS)
    run_as(SHARED, job.model_copy(update={"teachers": alone.teachers}))
    log = (tmp_path / "train.log").read_text()
    assert log.count("sharded ") == 2 * (2 + 4 + 2 * 3)  # layers of student and teacher, both ends, the rest
    assert_ends_alike(job, alone, 1e-2)


def run_as(script: str, job: TrainJob) -> None:
    """Runs the training with this script in place of launch.py."""
    folder = job.output.parent
    (folder / "script.py").write_text(script)
    line = command(job.train.accelerate, write_job(job))
    line = [*line[: line.index("pipeline.train.trainer.launch") - 1], str(folder / "script.py"), line[-1]]
    with Child(line, folder / "train.log", environment(job)) as child:
        assert child.wait(timeout=1200) == 0, child.log_tail(50)
