"""objective = "sft": cross-entropy on the teacher's text."""

from __future__ import annotations

from pipeline.train.trainer.trainer import CrossEntropy, Setup, StudentTrainer, student_trainer


def build(setup: Setup) -> StudentTrainer:
    return student_trainer(setup, CrossEntropy())
