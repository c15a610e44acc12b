"""objective = "logit_kd": distills the full distributions of teachers that run next to the student.

Each teacher gets the same tokens, masks and positions as the student, packed or padded, and its logits are
taken at the same positions.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.config.training import LogitKD
from pipeline.errors import UserError
from pipeline.train.trainer import losses, teachers
from pipeline.train.trainer.trainer import (
    Objective,
    Setup,
    StudentTrainer,
    SupervisedTokens,
    student_trainer,
)


def build(setup: Setup) -> StudentTrainer:
    settings = setup.job.train.logit_kd.model_copy(update={"teachers": setup.job.teachers})
    dtype = torch.bfloat16 if setup.job.bf16 else torch.float32
    objective = LogitKDObjective(settings, setup.model, setup.tokenizer, PartialState().device, dtype)
    return student_trainer(setup, objective)


class LogitKDObjective(Objective):
    """alpha T^2 D + (1 - alpha) CE, where D = sum_i w_i D_i / sum_i w_i over the teachers i.

    The divergences are averaged, not the teachers' probabilities, whose mixture may have another optimum. The
    gradient needs all teachers' logits of a micro batch in memory.
    """

    def __init__(
        self,
        settings: LogitKD,
        student: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Loads `settings.teachers` to the device. Raises UserError as teachers.load() does."""
        if not settings.teachers:
            raise UserError("train.logit_kd.teachers is empty: name a model with the student's vocabulary")
        self.settings = settings
        total = sum(teacher.weight for teacher in settings.teachers)
        self.teachers: list[tuple[float, Any]] = []
        for named in settings.teachers:
            teacher: Any = teachers.load(named.model, student, tokenizer, dtype)
            self.teachers.append((named.weight / total, teacher.to(device)))

    def __call__(self, tokens: SupervisedTokens) -> Tensor:
        alpha, temperature = self.settings.alpha, self.settings.temperature
        parts = [weight * self._divergence_from(teacher, tokens) for weight, teacher in self.teachers]
        divergence = torch.stack(parts).sum(0)
        # With alpha = 1 cross-entropy would cost as much as the divergence and count for nothing.
        ce = losses.cross_entropy(tokens.logits, tokens.targets) if alpha < 1 else divergence.new_zeros(())
        return losses.combine(alpha, temperature, divergence, ce)

    def _divergence_from(self, teacher: Any, tokens: SupervisedTokens) -> Tensor:
        with torch.no_grad():
            known = teacher.get_input_embeddings().num_embeddings
            # The padding token added to the student's tokenizer may be beyond the teacher's embeddings.
            inputs = {**tokens.inputs, "input_ids": tokens.inputs["input_ids"].clamp(max=known - 1)}
            logits = teacher(**inputs, use_cache=False, logits_to_keep=tokens.positions).logits[tokens.mask]
        # Logits beyond the shorter vocabulary belong to no token: teachers.load() checked it.
        shared = min(logits.shape[-1], tokens.logits.shape[-1])
        settings, student = self.settings, tokens.logits[:, :shared]
        return losses.divergence(
            settings.divergence, student, logits[:, :shared], settings.beta, settings.temperature
        )
