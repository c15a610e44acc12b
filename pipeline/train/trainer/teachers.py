"""Teacher models next to the student: frozen, in eval mode, and with the student's vocabulary.

Two distributions over tokens are comparable only where each id means the same token in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_deepspeed_zero3_enabled

from pipeline.errors import UserError
from pipeline.train.trainer import heads
from pipeline.train.trainer.capture import Capture
from pipeline.train.trainer.load import loading


class Teacher:
    """A frozen model that reads the student's tokens."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model
        self.capture: Capture | None = None  # set where white-box terms need more than the last hidden states
        heads.add_forward_to_hidden(model)

    def place(self, accelerator: Accelerator) -> None:
        """Moves it to the device; under FSDP2 each process keeps a shard."""
        self.model = placed(self.model, accelerator)

    @torch.no_grad()
    def hidden(self, inputs: Mapping[str, Any], rows: Tensor) -> Tensor:
        """The last hidden states (N, h) at the positions rows (B, L) of a batch, in order.

        Fills `capture` with what it records.
        """
        known = self.model.get_input_embeddings().num_embeddings
        # The padding token added to the student's tokenizer may be beyond the teacher's embeddings.
        inputs = {**inputs, "input_ids": inputs["input_ids"].clamp(max=known - 1)}
        with self.capture.recording() if self.capture else nullcontext():
            found = self.model(
                **inputs, use_cache=False, at_hidden=lambda hidden, head: {"hidden": hidden[rows]}
            )
        states: Tensor = found["hidden"]
        return states

    @property
    def head(self) -> heads.Head:
        return heads.head_of(self.model)


def load(
    model: str,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype,
    equal_logits: bool = False,
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
    check_tokens(model, own, tokenizer, (vocabulary(teacher), vocabulary(student)), equal_logits)
    return teacher.requires_grad_(False).eval()


def placed(teacher: Any, accelerator: Accelerator) -> Any:
    """A teacher on the accelerator's device, sharded under FSDP2. Raises UserError under FSDP1."""
    plugin: Any = accelerator.state.fsdp_plugin if accelerator.distributed_type == "FSDP" else None
    if plugin is None:
        return teacher.to(accelerator.device)
    if plugin.fsdp_version != 2:
        raise UserError("a teacher next to the student needs fsdp_version: 2 in accelerate's config_file")
    # The plugin remembers the class of the layers of the first model that it wraps.
    kept = plugin.auto_wrap_policy, plugin.transformer_cls_names_to_wrap
    sharded = fsdp2_prepare_model(accelerator, teacher)
    plugin.auto_wrap_policy, plugin.transformer_cls_names_to_wrap = kept
    return sharded.requires_grad_(False).eval()


def check_tokens(
    model: str,
    teacher: PreTrainedTokenizerBase,
    student: PreTrainedTokenizerBase,
    logits: tuple[int, int],
    equal: bool = False,
) -> None:
    """Raises UserError where the distributions of a teacher and the student cannot be compared.

    logits: their numbers, the teacher's first; `equal`: whether these must be equal, as for on_policy.
    """
    shared = shared_tokens(model, teacher, student)
    if min(logits) < shared:
        raise UserError(
            f"teacher {model}: {shared} tokens, but logits for {logits[0]}, the student's for {logits[1]}"
        )
    if equal and logits[0] != logits[1]:
        raise UserError(
            f"teacher {model}: it has {logits[0]} logits and the student {logits[1]}, for the same tokens: "
            'on_policy needs equal numbers; train.objective = "logit_kd" does not'
        )


def shared_tokens(model: str, teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> int:
    """The highest token id + 1. Raises UserError unless each token has the same id in both vocabularies."""
    if differ := differing_tokens(teacher, student):
        raise UserError(
            f"teacher {model}: its vocabulary is not the student's: {len(differ)} tokens differ, among them "
            f'{differ[0]!r}: use models of one family, or train.objective = "sft"'
        )
    known = dict(teacher.get_vocab())
    return max(id for token, id in dict(student.get_vocab()).items() if token in known) + 1


def differing_tokens(one: PreTrainedTokenizerBase, another: PreTrainedTokenizerBase) -> list[str]:
    """The tokens that do not have the same id in both vocabularies, sorted.

    A padding token that one of them lacks is ignored: no text holds it.
    """
    ours, theirs = dict(one.get_vocab()), dict(another.get_vocab())
    for tokenizer, own, other in ((one, ours, theirs), (another, theirs, ours)):
        if tokenizer.pad_token not in other:
            own.pop(tokenizer.pad_token, None)
    return sorted(token for token in {*ours, *theirs} if ours.get(token) != theirs.get(token))


def vocabulary(model: PreTrainedModel) -> int:
    """The number of a model's logits; often more than it has tokens, as embeddings are padded."""
    return int(model.config.get_text_config().vocab_size)
