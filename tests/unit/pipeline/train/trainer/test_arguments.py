"""What TRL's configuration is given for the settings of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny_student

pytest.importorskip("trl")


@pytest.mark.parametrize(
    ("schedule", "warmup", "given"),
    [
        ("constant", 0.1, "constant_with_warmup"),  # transformers' "constant" has none
        ("constant", 0, "constant"),
        ("cosine", 0.1, "cosine"),
    ],
)
def test_no_schedule_leaves_out_the_warmup(tmp_path: Path, schedule: str, warmup: float, given: str) -> None:
    from pipeline.train.trainer.arguments import arguments

    job = tiny_student.job(tmp_path, schedule=schedule, warmup=warmup)
    assert arguments(job, {"train": [0]}, 1)["lr_scheduler_type"] == given
