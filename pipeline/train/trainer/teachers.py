"""Teacher models beside the student: loaded, frozen, and of the same vocabulary.

A distribution over tokens can be compared with another only where each id means the same to both. Leaves out
what is done with them (online.py, on_policy.py).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled

from pipeline.errors import UserError


def load(
    model: str, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype
) -> PreTrainedModel:
    """A teacher (hub name or folder) in eval mode, without gradients, with the student's attention.

    Raises UserError where it cannot be loaded, or its vocabulary is not the student's.
    """
    if is_deepspeed_zero3_enabled():
        raise UserError("a teacher beside the student is held whole on every device: take ZeRO-2, or FSDP")
    try:
        own = AutoTokenizer.from_pretrained(model)
        teacher: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, attn_implementation=student.config._attn_implementation
        )
    except (OSError, ValueError) as e:
        raise UserError(f"teacher {model}: cannot be loaded: {str(e).strip().splitlines()[0]}") from e
    known = shared_tokens(model, own, tokenizer)
    sizes = vocabulary(teacher), vocabulary(student)
    if min(sizes) < known:
        raise UserError(
            f"teacher {model}: {known} tokens, but logits for {sizes[0]}, the student's for {sizes[1]}"
        )
    return teacher.requires_grad_(False).eval()


def shared_tokens(model: str, teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> int:
    """The highest id that a token has, and 1. Raises UserError unless each token has the same id with both.

    A padding token that one of them lacks is left out: no text holds it.
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
        f'{differ[0]!r}: take models of one family, or train.objective = "sft"'
    )


def vocabulary(model: PreTrainedModel) -> int:
    """How many logits a model gives. Embeddings are often padded: there may be more than tokens."""
    return int(model.config.get_text_config().vocab_size)
