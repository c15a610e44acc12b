"""Where a training resumes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.pipeline.train.trainer.test_trainer import rows, trainer

pytest.importorskip("trl")


def test_a_training_that_made_its_last_step_takes_no_further_one(tmp_path: Path) -> None:
    from pipeline.train.trainer.callbacks import MarkCheckpoints
    from pipeline.train.trainer.launch import checkpoint_for

    for found in (None, tmp_path / "checkpoint-2"):  # as if it was killed before the model was written
        it = trainer(tmp_path, rows(), micro=1, callbacks=[MarkCheckpoints()])
        it.args.gradient_accumulation_steps, it.args.num_train_epochs = 1, 0.5
        checkpoint = checkpoint_for(it, tmp_path)
        assert checkpoint == found
        it.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        assert it.state.global_step == 2
