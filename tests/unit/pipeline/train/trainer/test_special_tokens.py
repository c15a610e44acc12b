"""End-of-turn and padding tokens: found, replaced, or rejected."""

from __future__ import annotations

import pytest

from pipeline.errors import UserError
from tests import tiny_student
from tests.tiny_student import CHATML

pytest.importorskip("trl")

NO_END = CHATML.replace("<|im_end|>\n", "\n")


def end_of_turn(template: str | None = CHATML, **special: str) -> int:
    from pipeline.train.trainer import special_tokens

    messages = [m.model_dump() for m in tiny_student.example(0).messages]
    return special_tokens.end_of_turn(tiny_student.tokenizer(template, **special), messages)


def test_padding_that_is_the_end_of_turn_is_replaced_by_an_existing_token() -> None:
    from pipeline.train.trainer import special_tokens

    tokenizer = tiny_student.tokenizer()
    special_tokens.set_padding(tokenizer, end=2)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")


def test_a_padding_token_is_added_with_its_embedding_when_none_exists() -> None:
    from pipeline.train.trainer import special_tokens

    tokenizer, model = tiny_student.tokenizer(), tiny_student.model()
    special_tokens.set_padding(tokenizer, end=tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    assert tokenizer.pad_token == "<|im_end|>"  # not the end here, so it is kept
    tokenizer.pad_token = "<|endoftext|>"
    special_tokens.set_padding(tokenizer, end=0)
    special_tokens.fit_embeddings(model, tokenizer)
    assert tokenizer.pad_token == "<|pad|>"
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 260


def test_the_end_of_turn_is_the_template_s_not_the_document_s() -> None:
    assert end_of_turn(eos_token="<|endoftext|>", pad_token="<|endoftext|>") == 2


def test_a_template_without_an_end_of_turn_is_rejected() -> None:
    with pytest.raises(UserError, match="would never learn to stop"):
        end_of_turn(NO_END)


def test_a_tokenizer_without_a_template_is_rejected() -> None:
    with pytest.raises(UserError, match="no chat template"):
        end_of_turn(None)
