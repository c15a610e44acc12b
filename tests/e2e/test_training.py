"""Training in real processes under `accelerate launch`: killed, stopped, refused, resumed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.execute import DONE, execute
from pipeline.model_rows import Step
from pipeline.rows import Example
from pipeline.train.job import TrainJob, last_step, read_steps
from pipeline.train.launcher import command, environment
from pipeline.train.stage import TRAIN, model_folder
from tests import tiny_student

pytest.importorskip("trl")
pytestmark = pytest.mark.alone

SETTINGS: dict[str, Any] = {"epochs": 8, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 3e-3}
STEPS = 40  # 8 epochs of 5 steps


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_student.save(tmp_path_factory.mktemp("tiny") / "student")


@pytest.fixture(scope="module")
def unbroken(student: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """An uninterrupted training to compare with."""
    job = write_job(tmp_path_factory.mktemp("unbroken"), student)
    assert start(job).wait(timeout=300) == 0, log_of(job)
    return job


def dialogues() -> list[Example]:
    """40 to train on, and 4 for validation."""
    return [tiny_student.example(n, "train" if n < 40 else "validation") for n in range(44)]


def write_job(folder: Path, student: Path, **train: object) -> TrainJob:
    settings = SETTINGS | {"save_steps": 5, "precision": "bf16"}  # wherever the test runs
    shard = tiny_student.write_examples(folder / "shard.parquet", dialogues())
    job = tiny_student.job(folder, student, (shard,), **(settings | train))
    return job.model_copy(update={"seed": 7})


def start(job: TrainJob) -> subprocess.Popen[bytes]:
    file = job.output.parent / "job.json"
    file.write_text(job.model_dump_json())
    with (job.output.parent / "train.log").open("ab") as log:
        return subprocess.Popen(
            command({}, file), env=environment(job), stdout=log, stderr=log, start_new_session=True
        )


def log_of(job: TrainJob) -> str:
    return (job.output.parent / "train.log").read_text()


def interrupt(job: TrainJob, number: signal.Signals, when: Callable[[], bool]) -> None:
    """Starts the training, signals all its processes once `when` holds, waits until they have ended."""
    process = start(job)
    while process.poll() is None and not when():
        time.sleep(0.01)
    assert process.poll() is None, "the training ended before it could be interrupted: " + log_of(job)
    os.killpg(process.pid, number)
    process.wait()
    while group_is_alive(process.pid):
        time.sleep(0.05)


def group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def curve(log: Path) -> list[tuple[int, float, int | None]]:
    return [(s.step, s.loss, s.tokens) for s in read_steps(log) if s.loss is not None]


def assert_same_training(job: TrainJob, unbroken: TrainJob) -> None:
    for ours, theirs in zip(curve(job.log), curve(unbroken.log), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert_same_weights(job.output, unbroken.output)


def assert_same_weights(folder: Path, other: Path) -> None:
    import torch
    from safetensors.torch import load_file

    ours, theirs = (load_file(path / "model.safetensors") for path in (folder, other))
    assert ours.keys() == theirs.keys()
    for name, weights in ours.items():
        torch.testing.assert_close(weights, theirs[name], rtol=1e-2, atol=1e-4)  # stored in bfloat16


def test_a_trained_model_loads_with_transformers(unbroken: TrainJob) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(unbroken.output)
    tokenizer = AutoTokenizer.from_pretrained(unbroken.output)
    assert model.dtype == torch.bfloat16
    assert json.loads((unbroken.output / "config.json").read_text())["dtype"] == "bfloat16"
    assert model.generation_config.eos_token_id in (2, [2])
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.chat_template == tiny_student.CHATML


def test_the_log_has_every_step_and_a_validation_per_epoch(unbroken: TrainJob) -> None:
    steps = read_steps(unbroken.log)
    assert [step for step, _, _ in curve(unbroken.log)] == list(range(1, STEPS + 1))
    assert [s.step for s in steps if s.validation_loss is not None] == list(range(5, STEPS + 1, 5))
    assert curve(unbroken.log)[-1][1] < curve(unbroken.log)[0][1] / 2


def test_a_killed_training_resumes_to_the_same_model(
    student: Path, unbroken: TrainJob, tmp_path: Path
) -> None:
    """From the newest checkpoint that is whole, which is in the middle of an epoch."""
    job = write_job(tmp_path, student, save_steps=4)
    interrupt(job, signal.SIGKILL, lambda: (job.checkpoints / "checkpoint-8" / "complete").exists())
    marked = job.checkpoints.glob("checkpoint-*/complete")
    older, newest = sorted((path.parent for path in marked), key=lambda path: int(path.name[11:]))[-2:]
    (newest / "optimizer.pt").write_bytes(b"")  # as after a crash of the machine
    torn = job.checkpoints / "checkpoint-39"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{}")
    with job.log.open("a") as file:
        file.write('{"id": "11", "st')
    assert not job.output.exists()
    assert start(job).wait(timeout=300) == 0, log_of(job)
    assert f"{newest.name} is damaged: optimizer.pt has 0 of " in log_of(job)
    assert f"from {older}" in log_of(job)
    assert not torn.exists()
    assert_same_training(job, unbroken)


def some_steps(log: Path) -> bool:
    step: Step | None = last_step(log)
    return step is not None and step.step >= 3


def test_sigterm_saves_a_checkpoint_of_adapters_which_are_merged_in_the_end(
    student: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    job = write_job(tmp_path, student, lora={"rank": 4}, save_steps=1000)
    interrupt(job, signal.SIGTERM, lambda: some_steps(job.log))
    (saved,) = job.checkpoints.glob("checkpoint-*/complete")
    assert not job.output.exists()
    assert start(job).wait(timeout=300) == 0, log_of(job)
    assert f"from {saved.parent}" in log_of(job)
    assert (job.adapter / "adapter_model.safetensors").exists()
    merged, base = (AutoModelForCausalLM.from_pretrained(folder) for folder in (job.output, student))
    changed = {
        n
        for (n, w), (_, v) in zip(merged.named_parameters(), base.named_parameters(), strict=True)
        if not w.equal(v.to(w.dtype))
    }
    assert any("q_proj" in name for name in changed)
    assert not any("embed_tokens" in name or "norm" in name for name in changed)
    assert merged.generation_config.eos_token_id in (2, [2])
    assert AutoTokenizer.from_pretrained(job.output).pad_token == "<|endoftext|>"


def test_a_refused_training_gives_one_line_and_no_model(student: Path, tmp_path: Path) -> None:
    job = write_job(tmp_path, student, max_length=16)
    assert start(job).wait(timeout=300) != 0
    (line,) = job.refusal.read_text().splitlines()
    assert line.startswith("44 of 44 examples are longer than train.max_length = 16 tokens, the longest ")
    assert "Traceback" not in log_of(job)
    assert not job.output.exists()


def run_stage(run_dir: Path, student: Path) -> int:
    """Runs the stage as the command line does, with packed examples."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    settings = SETTINGS | {"save_steps": 1000, "precision": "bf16", "packing": True, "seed": 7}
    return execute(TRAIN, tiny_student.recipe(str(student), **settings), run_dir)


def test_ctrl_c_saves_a_checkpoint_and_the_same_command_finishes_as_an_uninterrupted_padded_training(
    student: Path, unbroken: TrainJob, tmp_path: Path
) -> None:
    tiny_student.train_job(tiny_student.recipe(str(student)), tmp_path, dialogues())
    stage = multiprocessing.get_context("spawn").Process(target=run_stage, args=(tmp_path, student))
    stage.start()
    log = tmp_path / "train" / "log.jsonl"
    while stage.is_alive() and not some_steps(log):
        time.sleep(0.01)
    assert stage.pid
    os.kill(stage.pid, signal.SIGINT)
    stage.join(timeout=60)
    assert stage.exitcode == 1  # KeyboardInterrupt, which the command line turns into 130
    (saved,) = (tmp_path / "train" / "checkpoints").glob("checkpoint-*/complete")
    assert run_stage(tmp_path, student) == DONE
    assert f"from {saved.parent}" in (tmp_path / "logs" / "train.log").read_text()
    assert (model_folder(tmp_path) / "model.safetensors").exists()
    assert not saved.parent.parent.exists()
    assert run_stage(tmp_path, student) == DONE
    for ours, theirs in zip(curve(log), curve(unbroken.log), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-2)  # bfloat16 rounding depends on shapes
