"""The recipe decides in which precision a training computes, not accelerate's own settings."""

from __future__ import annotations

from pathlib import Path

from pipeline.train import launcher
from tests import tiny_student
from tests.unit.pipeline.train.test_launcher import complaint


def test_accelerate_does_not_decide_the_precision(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("distributed_type: MULTI_GPU\nmixed_precision: bf16\nnum_processes: 1\n")
    for given in ({"config_file": str(file)}, {"mixed_precision": "bf16"}):
        assert complaint(precision="fp32", accelerate=given) == (
            'train.accelerate: mixed_precision = bf16: set it to "no"; train.precision decides'
        )
    for value in ('"no"', "no"):
        file.write_text(f"distributed_type: MULTI_GPU\nmixed_precision: {value}\nnum_processes: 1\n")
        launcher.check(tiny_student.recipe(accelerate={"config_file": str(file)}))
