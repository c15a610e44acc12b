"""What the student learns from, token by token: the end of a turn, padding, and the check before step one.

TRL writes the tokens: the prompt with the chat template's opening of an answer, then the last message, and
supervises what differs. Templates do surprising things with that (many drop the thought), so what came out
is looked at, row by row, and a training that would teach something else is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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
        encoded: Any = tokenizer.apply_chat_template([dict(m) for m in messages], return_dict=True)
    except TemplateError as e:
        raise UserError(f"the student's chat template refuses these messages: {e}") from None
    last = _last_visible(tokenizer, encoded["input_ids"])
    added = tokenizer.added_tokens_decoder.get(last)
    if last not in tokenizer.all_special_ids and not (added and added.special):
        raise UserError(
            f"the student's chat template ends an answer with {tokenizer.decode([last])!r}, which is no "
            "special token, so it would never learn to stop: take a model whose template ends every turn"
        )
    return last


def set_padding(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, end: int) -> None:
    """Have padding differ from the end of a turn; many ways to mask padding would mask the end with it."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == end:
        known = tokenizer.get_vocab()
        free = [token for token in (*PAD_TOKENS, tokenizer.unk_token) if known.get(token, end) != end]
        tokenizer.add_special_tokens({"pad_token": free[0] if free else "<|pad|>"})
    embeddings: Any = model.get_input_embeddings()
    if len(tokenizer) > embeddings.num_embeddings:
        model.resize_token_embeddings(len(tokenizer))


def check(
    rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, end: int, max_length: int
) -> None:
    """Look at every row that TRL made. Raises UserError, one line, when one would teach something else."""
    count, lengths = 0, []
    for row in rows:
        count += 1
        if len(row["input_ids"]) > max_length:
            lengths.append(len(row["input_ids"]))
        elif fault := _fault(row, tokenizer, end):
            raise UserError(f"example {row['id']}: {fault}")
    if lengths:
        raise UserError(
            f"{len(lengths)} of {count} examples are longer than train.max_length = {max_length} tokens, the "
            f"longest {max(lengths)}: raise it, or keep shorter traces"
        )


def _fault(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, end: int) -> str | None:
    supervised = [token for token in row["labels"] if token != IGNORED]
    if not supervised:
        return "the chat template leaves nothing of the answer to learn from"
    thought, closed, answer = row["completion"][-1]["content"].partition("</think>")
    text = str(tokenizer.decode(supervised))
    before = str(tokenizer.decode(row["input_ids"][: len(row["labels"]) - len(supervised)]))
    if not closed or "</think>" not in text or not _holds(text, thought.replace("<think>", "")):
        return "the student's chat template drops the thought from what is learned"
    if "<think>" not in text and not before.rstrip().endswith("<think>"):
        return "the student's chat template drops <think>, so thought and answer could not be told apart"
    if not _holds(text, answer):
        return "the student's chat template changes the answer"
    if _last_visible(tokenizer, supervised) != end:
        return f"what is learned does not end with {tokenizer.decode([end])!r}, so the student would not stop"
    return None


def _holds(text: str, part: str) -> bool:
    """Whether the part is in the text, spaces aside: templates trim them, some tokenizers move them."""
    return "".join(part.split()) in "".join(text.split())


def _last_visible(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> int:
    """The last token that is not white space; templates often put a line break behind the end of a turn."""
    return next((token for token in reversed(ids) if str(tokenizer.decode([token])).strip()), ids[-1])
