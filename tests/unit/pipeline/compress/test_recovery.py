"""When the trained weights of an export are taken; the training itself is in tests/e2e/test_recovery.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.compress import recovery, stage
from pipeline.compress.stage import COMPRESS
from pipeline.config.compress import Recovery
from pipeline.engine.changed_settings import manifest_of
from pipeline.engine.stage import Job
from pipeline.errors import UserError
from pipeline.model_rows import Step
from pipeline.train.stage import model_folder
from tests import tiny_student
from tests.unit.pipeline.compress import standin
from tests.unit.pipeline.train.trainer.test_quantized import export

pytest.importorskip("trl")


def test_recovery_needs_its_scheme() -> None:
    with pytest.raises(ValidationError, match="recovery is for the scheme w4a16"):
        standin.recipe(schemes=["w8a8"], recovery={})


def test_recovery_changes_its_own_scheme_alone() -> None:
    def settings(**more: Any) -> Any:
        return COMPRESS.settings(standin.recipe(schemes=["w8a8", "w4a16"], **more))["schemes"]

    without, with_it = settings(), settings(recovery={"epochs": 2})
    assert with_it["w8a8"] == without["w8a8"]
    assert with_it["w4a16"] == without["w4a16"] | {"recovery": {"epochs": 2.0, "learning_rate": 1e-5}}


def test_only_the_divergence_from_the_whole_student_is_trained_on() -> None:
    given = tiny_student.recipe(objective="dpo", lora={}, relations={}, weight_by="confidence", batch_size=4)
    made = recovery._train(given.train, Recovery(epochs=0.5, learning_rate=1e-3))
    assert (made.objective, made.logit_kd.alpha, made.logit_kd.divergence) == ("logit_kd", 1, "forward_kl")
    assert (made.lora, made.relations, made.weight_by) == (None, None, None)
    assert (made.epochs, made.learning_rate, made.batch_size) == (0.5, 1e-3, 4)


def test_several_machines_are_refused() -> None:
    given = standin.recipe(schemes=["w4a16"], recovery={})
    nodes = {"num_machines": 2, "machine_rank": 0, "main_process_ip": "127.0.0.1", "main_process_port": 1}
    changes = {"accelerate": nodes | {"num_processes": 2}, "micro_batch_size": 8}
    train = given.train.model_copy(update=changes)
    with pytest.raises(UserError, match=r"compress\.recovery trains on one machine"):
        recovery.check(given.model_copy(update={"train": train}))


def prepared(run_dir: Path) -> tuple[Job, Path, Path]:
    """A job, an export that rounds the student to the nearest, and one of another student."""
    student = tiny_student.save(model_folder(run_dir))
    job = standin.job(run_dir, Path("unused"), schemes=["w4a16"], recovery={})
    job.output.save(manifest_of(job))
    job.logs.mkdir(exist_ok=True)
    near = export(student, run_dir / "near")
    tiny_student.model(seed=1).save_pretrained(run_dir / "other")
    return job, near, export(run_dir / "other", run_dir / "far")


def after_training(job: Job, result: Path) -> None:
    """Makes the folder of a finished training whose result was not taken yet."""
    folder = job.output.folder / "recovery"
    recovery._clear_unless(folder, job)
    shutil.copytree(result, folder / "model")
    unknown = dict.fromkeys(Step.model_fields) | {"id": "7", "step": 7, "steps": 7, "epoch": 1.0, "loss": 0.1}
    (folder / "log.jsonl").write_text(Step.model_validate(unknown).model_dump_json() + "\n")


@pytest.mark.parametrize("better", [True, False])
def test_trained_weights_are_taken_only_if_they_are_nearer(tmp_path: Path, better: bool) -> None:
    job, near, far = prepared(tmp_path)
    before, after = (far, near) if better else (near, far)
    expected, trained = (f / "model.safetensors" for f in (near, after))
    kept, result = expected.read_bytes(), trained.read_bytes()
    assert (kept == result) == better
    after_training(job, after)
    found = recovery.recover(job, Recovery(), before)
    assert (found.kept, found.steps, found.measured_on, found.examples) == (better, 7, "train", 5)
    assert (found.divergence < found.divergence_before) == better
    assert (before / "model.safetensors").read_bytes() == kept
    assert not (job.output.folder / "recovery").exists()


@pytest.mark.parametrize("changed", [False, True])
def test_a_killed_recovery_goes_on_unless_its_settings_changed(tmp_path: Path, changed: bool) -> None:
    first = standin.job(tmp_path, Path("unused"), schemes=["w4a16"], recovery={})
    settings = {"learning_rate": 1e-3} if changed else {}
    again = standin.job(tmp_path, Path("unused"), schemes=["w4a16"], recovery=settings)
    folder = first.output.folder / "recovery"
    for job in (first, again):
        job.output.save(manifest_of(job))
        recovery._clear_unless(folder, job)
        (folder / "model").mkdir(exist_ok=True)
        if job is first:
            (folder / "model" / "of-the-first").touch()
    assert (folder / "model" / "of-the-first").exists() != changed


def test_a_stopped_recovery_goes_on_with_the_export_that_it_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = standin.interpreter(tmp_path / "tools")
    job = standin.job(tmp_path / "run", python, schemes=["w4a16"], recovery={})
    job.output.save(manifest_of(job))
    tools, folder = stage._tools(job), job.output.folder / "recovery"
    reference = stage._reference(job, tools)

    def stopped(*_: Any) -> None:
        recovery._clear_unless(folder, job)
        raise KeyboardInterrupt

    monkeypatch.setattr(recovery, "recover", stopped)

    def quantized_in_all() -> int:
        with pytest.raises(KeyboardInterrupt):
            stage._make(job, "w4a16", tools, reference)
        return standin.calls(tmp_path / "tools").count("quantize w4a16")

    assert [quantized_in_all(), quantized_in_all()] == [1, 1]
    (folder / "model").mkdir()  # it may have been copied into the export in part
    assert quantized_in_all() == 2
