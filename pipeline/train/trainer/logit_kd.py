"""objective = "logit_kd": teachers read what the student reads; their whole distributions are its labels.

Each teacher sees the same tokens, masks and positions as the student, packed or padded, and gives logits at
the same places. Leaves out the divergences (objectives.py) and who teaches when the recipe names nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.config.training import LogitKD
from pipeline.errors import UserError
from pipeline.train.trainer import objectives, teachers
from pipeline.train.trainer.trainer import Objective, Supervised


class OnlineObjective(Objective):
    """alpha T^2 D + (1 - alpha) CE, where D = sum_i w_i D_i / sum_i w_i over the teachers i.

    So it is the divergences that are weighed: the student seeks the middle of its teachers, which need not be
    the mixture of their probabilities. The gradient needs all teachers' logits of a micro batch in memory.
    """

    def __init__(
        self,
        settings: LogitKD,
        student: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Load `settings.teachers` to the device. Raises UserError as teachers.load() does."""
        if not settings.teachers:
            raise UserError("train.logit_kd.teachers is empty: name a model with the student's vocabulary")
        self.settings = settings
        self.divergence = _divergence(settings)
        total = sum(teacher.weight for teacher in settings.teachers)
        self.teachers: list[tuple[float, Any]] = []
        for of in settings.teachers:
            teacher: Any = teachers.load(of.model, student, tokenizer, dtype)
            self.teachers.append((of.weight / total, teacher.to(device)))

    def __call__(self, given: Supervised) -> Tensor:
        """(N,): see the class."""
        alpha, temperature = self.settings.alpha, self.settings.temperature
        parts = [weight * self._of_teacher(teacher, given) for weight, teacher in self.teachers]
        divergence = torch.stack(parts).sum(0)
        # Without weight it would cost as much as the divergence, and change nothing.
        ce = objectives.cross_entropy(given.logits, given.targets) if alpha < 1 else divergence.new_zeros(())
        return objectives.combine(alpha, temperature, divergence, ce)

    def _of_teacher(self, teacher: Any, given: Supervised) -> Tensor:
        with torch.no_grad():
            known = teacher.get_input_embeddings().num_embeddings
            # Padding that the student's tokenizer got for its training may be none of the teacher's ids.
            inputs = {**given.inputs, "input_ids": given.inputs["input_ids"].clamp(max=known - 1)}
            kept = teacher(**inputs, use_cache=False, logits_to_keep=given.positions).logits
            labels = kept[given.mask]
        both = min(
            labels.shape[-1], given.logits.shape[-1]
        )  # behind it are ids of no token: teachers.load() looked
        return self.divergence(given.logits[:, :both], labels[:, :both])


def _divergence(settings: LogitKD) -> Callable[[Tensor, Tensor], Tensor]:
    """The divergence of the settings, of student's and teacher's logits (N, V) -> (N,)."""
    beta, temperature = settings.beta, settings.temperature
    if settings.divergence == "forward_kl":
        return lambda s, t: objectives.forward_kl(s, t, temperature)
    if settings.divergence == "reverse_kl":
        return lambda s, t: objectives.reverse_kl(s, t, temperature)
    mixing = {
        "skew_kl": objectives.skew_kl,
        "skew_reverse_kl": objectives.skew_reverse_kl,
        "jsd": objectives.jsd,
    }[settings.divergence]
    return lambda s, t: mixing(s, t, beta, temperature)
