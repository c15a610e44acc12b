"""objective = "logit_kd": distills the full distributions of teachers that run next to the student.

Each teacher gets the same tokens, masks and positions as the student, packed or padded, and its hidden states
are taken at the same positions. Logits of student and teachers exist for one slice of tokens at a time.
"""

from __future__ import annotations

from torch import Tensor

from pipeline.config.train import LogitKD
from pipeline.errors import UserError
from pipeline.train.trainer import losses
from pipeline.train.trainer.tiles import tiled
from pipeline.train.trainer.trainer import (
    Objective,
    Setup,
    StudentTrainer,
    SupervisedTokens,
    student_trainer,
)


def build(setup: Setup) -> StudentTrainer:
    settings = setup.job.train.logit_kd.model_copy(update={"teachers": setup.job.teachers})
    return student_trainer(setup, LogitKDObjective(settings))


class LogitKDObjective(Objective):
    """alpha T^2 D + (1 - alpha) CE, where D = sum_i w_i D_i / sum_i w_i over the teachers i.

    The divergences are averaged, not the teachers' probabilities, whose mixture may have another optimum.
    `SupervisedTokens.teachers` has the teachers of the settings in their order.
    """

    def __init__(self, settings: LogitKD) -> None:
        """Raises UserError without teachers."""
        if not settings.teachers:
            raise UserError("train.logit_kd.teachers is empty: name a model with the student's vocabulary")
        self.settings = settings
        total = sum(teacher.weight for teacher in settings.teachers)
        self.weights = [teacher.weight / total for teacher in settings.teachers]

    def __call__(self, tokens: SupervisedTokens) -> Tensor:
        alpha, temperature = self.settings.alpha, self.settings.temperature
        heads = [teacher.head for teacher in tokens.teachers]

        def of_slice(logits: Tensor, targets: Tensor, *states: Tensor) -> Tensor:
            divergence = logits.new_zeros(())
            for weight, head, hidden in zip(self.weights, heads, states, strict=True):
                theirs = head.finished(head.product(hidden, hidden.dtype))
                # Logits beyond the shorter vocabulary belong to no token: teachers.load() checked it.
                shared = min(logits.shape[-1], theirs.shape[-1])
                divergence = divergence + weight * losses.divergence(
                    self.settings.divergence,
                    logits[:, :shared],
                    theirs[:, :shared],
                    self.settings.beta,
                    temperature,
                )
            # With alpha = 1 cross-entropy would cost as much as the divergence and count for nothing.
            ce = losses.cross_entropy(logits, targets) if alpha < 1 else divergence.new_zeros(())
            return losses.combine(alpha, temperature, divergence, ce)

        states = (teacher.hidden for teacher in tokens.teachers)
        return tiled(of_slice, tokens.hidden, tokens.head, tokens.targets, *states)
