"""A real training of rounded weights, by the processes that train a student."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.compress import recovery
from pipeline.config.compress import Recovery
from pipeline.engine.changed_settings import manifest_of
from pipeline.engine.stage import Job
from pipeline.train.stage import model_folder
from tests import tiny_student
from tests.unit.pipeline.compress import standin
from tests.unit.pipeline.train.trainer.test_quantized import export, loaded, logits

pytest.importorskip("trl")
pytestmark = pytest.mark.alone


def sharpened(student: Path) -> None:
    """Enlarges random weights: else predictions are nearly uniform, and rounding changes next to nothing."""
    model = loaded(student)
    for weights in model.parameters():
        if weights.dim() == 2:
            weights.data *= 5
    model.save_pretrained(student)


def test_a_recovery_brings_the_rounded_student_nearer_to_the_whole_one(tmp_path: Path) -> None:
    import torch

    student = tiny_student.save(model_folder(tmp_path))
    sharpened(student)
    job: Job = standin.job(tmp_path, Path("unused"), 16, schemes=["w4a16"], recovery={})
    job.output.save(manifest_of(job))
    job.logs.mkdir(exist_ok=True)
    rounded = export(student, tmp_path / "rounded")
    before = logits(loaded(rounded))
    found = recovery.recover(job, Recovery(epochs=20, learning_rate=1e-4), rounded)
    assert found.kept
    assert found.divergence < 0.95 * found.divergence_before
    assert found.steps == 20
    after = logits(loaded(rounded))  # by compressed-tensors
    whole = logits(loaded(student))
    assert not torch.allclose(before, after, atol=1e-4)
    assert (after - whole).square().mean() < (before - whole).square().mean()
