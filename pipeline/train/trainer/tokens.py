"""The tokens that a training hangs on: the end of a turn, which the student learns to stop with, and padding.

What the examples became, token by token, is looked at in `supervision`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import UserError

IGNORED = -100  # the label of a token that is not supervised
# Reserved by model families for padding, or as good as unused by a model that chats.
PAD_TOKENS = ("<|endoftext|>", "<pad>", "<|pad|>", "[PAD]", "<|padding|>", "<|finetune_right_pad_id|>")


def end_of_turn(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> int:
    """The token with which the chat template ends an answer: what the student learns to stop with.

    It may differ from the tokenizer's own end: base models come with the end of a document.
    """
    if not tokenizer.chat_template:
        raise UserError("the student's tokenizer has no chat template: take an instruct model")
    try:
        ids = render(tokenizer, messages)
    except TemplateError as e:
        raise UserError(f"the student's chat template refuses these messages: {e}") from None
    last = ids[last_visible(tokenizer, ids)]
    added = tokenizer.added_tokens_decoder.get(last)
    if last not in tokenizer.all_special_ids and not (added and added.special):
        raise UserError(
            f"the student's chat template ends an answer with {tokenizer.decode([last])!r}, which is no "
            "special token, so it would never learn to stop: take a model whose template ends every turn"
        )
    return last


def set_padding(tokenizer: PreTrainedTokenizerBase, end: int) -> None:
    """Have padding differ from the end of a turn; many ways to mask padding would mask the end with it."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == end:
        known = tokenizer.get_vocab()
        free = [token for token in (*PAD_TOKENS, tokenizer.unk_token) if known.get(token, end) != end]
        tokenizer.add_special_tokens({"pad_token": free[0] if free else "<|pad|>"})


def fit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give each token of the tokenizer an embedding: padding may be new. Embeddings beyond them stay."""
    embeddings: Any = model.get_input_embeddings()
    if len(tokenizer) > embeddings.num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)  # nobody looks at padding


def render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    opened: bool = False,
    template: str | None = None,
) -> list[int]:
    """Messages as tokens by the chat template, or by another; `opened`: for an answer to follow."""
    return render_all(tokenizer, [messages], opened, template)[0]


def render_all(
    tokenizer: PreTrainedTokenizerBase,
    dialogues: Sequence[Sequence[Mapping[str, str]]],
    opened: bool = False,
    template: str | None = None,
) -> list[list[int]]:
    """Several dialogues by render(), turned into tokens at once, which is faster."""
    plain = [[dict(message) for message in messages] for messages in dialogues]
    encoded: Any = tokenizer.apply_chat_template(
        plain, chat_template=template, add_generation_prompt=opened, return_dict=True
    )
    return [list(ids) for ids in encoded["input_ids"]]


def common_prefix(a: Sequence[int] | np.ndarray, b: Sequence[int] | np.ndarray) -> int:
    """How many tokens two sequences begin with alike."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(differ[0]) if len(differ) else n


def last_visible(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> int:
    """Position of the last token that is not white space; templates often put a line break behind a turn."""
    visible = (n for n in reversed(range(len(ids))) if str(tokenizer.decode([ids[n]])).strip())
    return next(visible, len(ids) - 1)
