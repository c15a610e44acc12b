"""The steps of a text, token by token."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")

from pipeline.train.trainer.steps import steps
from tests import tiny_student


def split(text: str) -> list[tuple[str, bool]]:
    tokenizer = tiny_student.tokenizer()
    ids = tokenizer(text)["input_ids"]
    found = steps(ids, 0, tokenizer)
    assert [s.start for s in found[1:]] == [s.end for s in found[:-1]]
    return [(tokenizer.decode(ids[s.start : s.end]), s.said) for s in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I add 2. That is 4!", ["I add 2.", " That is 4!"]),
        ("Half of 3.5 is 1.75. Done", ["Half of 3.5 is 1.75.", " Done"]),
        ('He said "no." Then yes', ['He said "no."', " Then yes"]),
        ("2 + 2\n= 4\n\nSo 4", ["2 + 2", "\n= 4", "\n\nSo 4"]),
        ("one", ["one"]),
        ("", []),
    ],
)
def test_a_step_is_a_sentence_or_a_line(text: str, expected: list[str]) -> None:
    assert [step for step, _ in split(text)] == expected
    assert all(said for _, said in split(text))


def test_tags_marks_and_white_space_alone_say_nothing() -> None:
    found = split("<think>\nAdd 2.\n</think>\n\n4<|im_end|>\n")
    assert found == [
        ("<think>", False),
        ("\nAdd 2.", True),
        ("\n</think>", False),
        ("\n\n4<|im_end|>", True),
        ("\n", False),
    ]


def test_positions_count_from_the_first_token_with_loss() -> None:
    tokenizer = tiny_student.tokenizer()
    ids = tokenizer("question? Yes. No.")["input_ids"]
    found = steps(ids, 9, tokenizer)
    assert [(s.start, s.end) for s in found] == [(9, 14), (14, 18)]
