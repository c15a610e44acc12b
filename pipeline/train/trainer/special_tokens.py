"""Renders chat messages as tokens, and finds the end-of-turn token and a padding token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import UserError

IGNORED = -100  # the label of a token without loss
# Reserved by model families for padding, or practically unused by chat models.
PAD_TOKENS = ("<|endoftext|>", "<pad>", "<|pad|>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>")


def end_of_turn(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> int:
    """The token with which the chat template ends an assistant turn. Raises UserError where there is none.

    It may differ from eos_token: that of a base model ends a document.
    """
    if not tokenizer.chat_template:
        raise UserError("the student's tokenizer has no chat template: use an instruct model")
    try:
        ids = render(tokenizer, messages)
    except TemplateError as e:
        raise UserError(f"the student's chat template refuses these messages: {e}") from None
    last = ids[last_visible(tokenizer, ids)]
    added = tokenizer.added_tokens_decoder.get(last)
    if last not in tokenizer.all_special_ids and not (added and added.special):
        raise UserError(
            f"the student's chat template ends a turn with {tokenizer.decode([last])!r}, which is not a "
            "special token, so it would never learn to stop: use a model whose template ends every turn"
        )
    return last


def set_padding(tokenizer: PreTrainedTokenizerBase, end: int) -> None:
    """Makes padding differ from the end-of-turn token, which masked padding would mask too."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == end:
        known = tokenizer.get_vocab()
        free = [token for token in (*PAD_TOKENS, tokenizer.unk_token) if known.get(token, end) != end]
        tokenizer.add_special_tokens({"pad_token": free[0] if free else "<|pad|>"})


def fit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Adds embeddings for new tokens, such as padding. Never removes any."""
    embeddings: Any = model.get_input_embeddings()
    if len(tokenizer) > embeddings.num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # padding is never attended to


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    opened: bool = False,
    template: str | None = None,
    variables: Mapping[str, Any] = MappingProxyType({}),
) -> list[int]:
    """Token ids of messages by the chat template; `opened` adds the generation prompt."""
    return render_all(tokenizer, [messages], opened, template, variables)[0]


def render_all(
    tokenizer: PreTrainedTokenizerBase,
    dialogues: Sequence[Sequence[Mapping[str, str]]],
    opened: bool = False,
    template: str | None = None,
    variables: Mapping[str, Any] = MappingProxyType({}),
) -> list[list[int]]:
    """render() of several dialogues in one call, which is faster. `variables`: of the chat template."""
    plain = [[dict(message) for message in messages] for messages in dialogues]
    encoded: Any = tokenizer.apply_chat_template(
        plain, chat_template=template, add_generation_prompt=opened, return_dict=True, **variables
    )
    return [list(ids) for ids in encoded["input_ids"]]


def common_prefix(a: Sequence[int] | np.ndarray, b: Sequence[int] | np.ndarray) -> int:
    """Length of the longest common prefix of two sequences."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(differ[0]) if len(differ) else n


def last_visible(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> int:
    """Position of the last token that is not white space: templates often add a line break after a turn."""
    visible = (n for n in reversed(range(len(ids))) if str(tokenizer.decode([ids[n]])).strip())
    return next(visible, len(ids) - 1)
