"""What TRL makes of examples, and that a training which would teach something else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.training import Train
from pipeline.errors import UserError
from tests import tiny_student
from tests.tiny_student import CHATML

pytest.importorskip("trl")

# Keeps of past answers only what follows the thought, as many reasoning models' templates do.
STRIPS = CHATML.replace("message['content']", "message['content'].split('</think>')[-1]")
OPENS = CHATML.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif")
NO_END = CHATML.replace("<|im_end|>\n", "\n")


def prepared(template: str | None = CHATML, **special: str) -> tuple[list[dict[str, Any]], Any, int]:
    """Rows as the trainer would see them, made by TRL itself; the tokenizer; the end of a turn."""
    import datasets
    from trl import SFTTrainer

    from pipeline.training import sft, tokens
    from pipeline.training.job import TrainJob

    tokenizer, model = tiny_student.tokenizer(template, **special), tiny_student.model()
    examples = [tiny_student.example(n).model_dump(include={"id", "messages"}) for n in range(4)]
    end = tokens.end_of_turn(tokenizer, examples[0]["messages"])
    tokens.set_padding(tokenizer, model, end)
    job = TrainJob(
        model="", examples=(), output=Path("o"), checkpoints=Path("c"), train=Train(precision="fp32")
    )
    rows = datasets.Dataset.from_list([e | sft._as_completion(e) for e in examples]).remove_columns(
        "messages"
    )
    trainer = SFTTrainer(
        model=model,
        args=sft._settings(job, {"train": rows}, tokenizer.convert_ids_to_tokens(end), 1),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    made: Any = trainer.train_dataset
    return list(made), tokenizer, end


def test_thought_answer_and_end_are_learned_and_the_question_is_not() -> None:
    from pipeline.training import tokens

    rows, tokenizer, end = prepared()
    tokens.check(rows, tokenizer, end, 512)
    learned = tokenizer.decode([token for token in rows[0]["labels"] if token != tokens.IGNORED])
    assert learned == tiny_student.example(0).messages[-1].content + "<|im_end|>\n"


def test_padding_that_is_the_end_of_a_turn_is_replaced_by_a_token_that_is_there() -> None:
    _, tokenizer, end = prepared()
    assert (tokenizer.pad_token, tokenizer.eos_token, end) == ("<|endoftext|>", "<|im_end|>", 2)


def test_a_token_for_padding_is_added_with_its_embedding_when_none_is_free() -> None:
    from pipeline.training import tokens

    tokenizer, model = tiny_student.tokenizer(), tiny_student.model()
    tokenizer.chat_template = CHATML
    tokens.set_padding(tokenizer, model, end=tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    assert tokenizer.pad_token == "<|im_end|>"  # not the end here, so it may stay
    tokenizer.pad_token = "<|endoftext|>"
    tokens.set_padding(tokenizer, model, end=0)
    assert tokenizer.pad_token == "<|pad|>"
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == 260


def test_a_base_model_learns_the_end_of_its_template_and_not_the_end_of_a_document() -> None:
    _, tokenizer, end = prepared(eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    assert (tokenizer.eos_token, end) == ("<|im_end|>", 2)


def test_a_template_that_drops_the_thought_is_refused() -> None:
    from pipeline.training import tokens

    rows, tokenizer, end = prepared(STRIPS)
    with pytest.raises(UserError, match=r"p0-0: the student's chat template drops the thought"):
        tokens.check(rows, tokenizer, end, 512)


def test_a_template_that_opens_the_thought_in_the_prompt_is_fine() -> None:
    from pipeline.training import tokens

    rows, tokenizer, end = prepared(OPENS)
    tokens.check(rows, tokenizer, end, 512)
    learned = tokenizer.decode([token for token in rows[0]["labels"] if token != tokens.IGNORED])
    assert learned.startswith("Count 1 up")


def test_a_template_that_ends_no_turn_is_refused() -> None:
    with pytest.raises(UserError, match="would never learn to stop"):
        prepared(NO_END)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(UserError, match="no chat template"):
        prepared(None)


def test_long_examples_are_counted_and_refused_never_cut() -> None:
    from pipeline.training import tokens

    rows, tokenizer, end = prepared()
    longest = max(len(row["input_ids"]) for row in rows)
    with pytest.raises(UserError, match=f"4 of 4 examples are longer .* the longest {longest}"):
        tokens.check(rows, tokenizer, end, 16)


def test_a_row_whose_end_is_not_supervised_is_refused() -> None:
    from pipeline.training import tokens

    rows, tokenizer, end = prepared()
    labels = [tokens.IGNORED if token == end else token for token in rows[0]["labels"]]
    with pytest.raises(UserError, match="the student would not stop"):
        tokens.check([rows[0] | {"labels": labels}], tokenizer, end, 512)


def test_a_row_with_nothing_supervised_is_refused() -> None:
    from pipeline.training import tokens

    rows, tokenizer, end = prepared()
    labels = [tokens.IGNORED] * len(rows[0]["labels"])
    with pytest.raises(UserError, match="nothing of the answer to learn from"):
        tokens.check([rows[0] | {"labels": labels}], tokenizer, end, 512)
