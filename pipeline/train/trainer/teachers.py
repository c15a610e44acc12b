"""Loads teacher models next to the student: frozen, and with the student's vocabulary.

Two distributions over tokens are comparable only where each id means the same token in both.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled

from pipeline.errors import UserError
from pipeline.train.trainer.load import loading


def load(
    model: str, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
) -> PreTrainedModel:
    """A teacher (hub name or folder) in eval mode, without gradients, with the student's attention.

    Raises UserError where it cannot be loaded or has another vocabulary than the student.
    """
    if is_deepspeed_zero3_enabled():
        raise UserError("a teacher next to the student is whole on every device: use ZeRO-2 or FSDP")
    with loading(f"teacher {model}"):
        own = AutoTokenizer.from_pretrained(model)
        teacher: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, attn_implementation=student.config._attn_implementation
        )
    shared = shared_tokens(model, own, tokenizer)
    sizes = vocabulary(teacher), vocabulary(student)
    if min(sizes) < shared:
        raise UserError(
            f"teacher {model}: {shared} tokens, but logits for {sizes[0]}, the student's for {sizes[1]}"
        )
    return teacher.requires_grad_(False).eval()


def shared_tokens(model: str, teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> int:
    """The highest token id + 1. Raises UserError unless each token has the same id in both vocabularies.

    A padding token that one of them lacks is ignored: no text holds it.
    """
    ours, theirs = dict(student.get_vocab()), dict(teacher.get_vocab())
    for tokenizer, own, other in ((student, ours, theirs), (teacher, theirs, ours)):
        if tokenizer.pad_token not in other:
            own.pop(tokenizer.pad_token, None)
    if ours == theirs:
        return max(ours.values()) + 1
    differ = sorted(token for token in {*ours, *theirs} if ours.get(token) != theirs.get(token))
    raise UserError(
        f"teacher {model}: its vocabulary is not the student's: {len(differ)} tokens differ, among them "
        f'{differ[0]!r}: use models of one family, or train.objective = "sft"'
    )


def vocabulary(model: PreTrainedModel) -> int:
    """The number of a model's logits; often more than it has tokens, as embeddings are padded."""
    return int(model.config.get_text_config().vocab_size)
