"""Warnings about the student's own samples."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.model_rows import Step
from pipeline.train.sample_watch import SampleWatch

UNKNOWN = ("learning_rate", "grad_norm", "tokens", "seconds", "tokens_per_second", "validation_loss")


def step(number: int, **values: Any) -> Step:
    counts = {"id": str(number), "step": number, "steps": 9, "epoch": 1, "loss": 0.25}
    return Step(**counts, **dict.fromkeys(UNKNOWN), **values)


def test_the_note_has_loss_and_samples() -> None:
    watch = SampleWatch(print)
    assert watch.note(step(1)) == "loss 0.250"
    note = watch.note(step(2, sample_tokens=41.6, truncated=0.25, special=0))
    assert note == "loss 0.250, samples of 42 tokens, 25% truncated"


@pytest.mark.parametrize(
    ("later", "warning"),
    [
        ({"sample_tokens": 190, "truncated": 0.5, "special": 0.5}, None),
        ({"sample_tokens": 210, "truncated": 0.1, "special": 0}, "grew from 100 to 210 tokens"),
        (
            {"sample_tokens": 100, "truncated": 0.6, "special": 0},
            "60% of the student's samples are trunc",
        ),
        (
            {"sample_tokens": 100, "truncated": 0, "special": 0.75},
            "75% of the student's samples hold",
        ),
    ],
)
def test_samples_that_go_wrong_are_warned_of_once(later: dict[str, float], warning: str | None) -> None:
    said: list[str] = []
    watch = SampleWatch(said.append)
    watch.note(step(1, sample_tokens=100, truncated=0, special=0))
    for number in (2, 3):
        watch.note(step(number, **later))
    assert len(said) == (warning is not None)
    assert all(line.startswith("train: warning: step 2: ") and (warning or "") in line for line in said)
