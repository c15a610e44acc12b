"""Two processes on CPUs, each with a copy of the model or sharing it by ZeRO-3. FSDP needs GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.child import Child
from pipeline.config.base import Scalar
from pipeline.config.training import Train
from pipeline.launching import command, environment
from pipeline.machine import has_gpu
from pipeline.training.job import TrainJob, read_steps
from tests import tiny_student

pytest.importorskip("trl")
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(has_gpu(), reason="on GPUs two processes want two of them"),
]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_student.save(tmp_path_factory.mktemp("tiny") / "student")


@pytest.fixture(scope="module")
def alone(student: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    return trained(tmp_path_factory.mktemp("alone"), student, 8, {})


def trained(folder: Path, student: Path, micro_batch: int, accelerate: dict[str, Scalar]) -> TrainJob:
    job = TrainJob(
        model=str(student),
        examples=(
            tiny_student.write_examples(folder / "s.parquet", [tiny_student.example(n) for n in range(40)]),
        ),
        output=folder / "model",
        checkpoints=folder / "checkpoints",
        train=Train(
            epochs=2,
            batch_size=8,
            micro_batch_size=micro_batch,
            learning_rate=3e-3,
            save_steps=5,
            precision="fp32",
            accelerate=accelerate,
        ),
        seed=7,
    )
    file = folder / "job.json"
    file.write_text(job.model_dump_json())
    log = folder / "train.log"
    with Child(command(accelerate, file), log, environment(job)) as child:
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


def test_two_processes_end_where_one_does(student: Path, alone: TrainJob, tmp_path: Path) -> None:
    job = trained(tmp_path, student, 4, {"num_processes": 2})
    assert {path.name for path in (job.checkpoints / "checkpoint-10").glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    assert_ends_alike(job, alone, 1e-2)


def test_two_processes_that_share_the_weights_by_zero3_end_there_too(
    student: Path, alone: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    zero3 = str(Path(__file__).resolve().parents[2] / "pipeline" / "recipes" / "zero3.yaml")
    job = trained(tmp_path, student, 4, {"config_file": zero3, "num_processes": 2})
    assert_ends_alike(job, alone, 1e-5)
