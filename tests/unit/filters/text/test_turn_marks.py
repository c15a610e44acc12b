"""Marks of chat templates in text are found, and stripped from the end of an answer."""

import pytest

from filters.text.turn_marks import END_MARKS, TURN_MARK, TURN_MARKS, strip_end_marks


@pytest.mark.parametrize("mark", END_MARKS)
def test_an_end_mark_is_stripped_from_the_very_end(mark: str) -> None:
    assert strip_end_marks(f"It is 7.{mark}") == "It is 7."
    assert strip_end_marks(f"It is 7.\n{mark}\n") == "It is 7."
    assert strip_end_marks(f"It {mark} is 7.") == f"It {mark} is 7."


def test_several_end_marks_are_stripped_and_other_text_is_unchanged() -> None:
    assert strip_end_marks("It is 7.<|im_end|>\n<|endoftext|>") == "It is 7."
    assert strip_end_marks("It is 7. \n") == "It is 7. \n"
    assert strip_end_marks("<|im_end|>") == strip_end_marks("") == ""
    assert strip_end_marks("a<|im_end|> b") == "a<|im_end|> b"


def test_a_strike_through_keeps_its_closing_tag() -> None:
    assert strip_end_marks("<s>8</s>") == "<s>8</s>"
    assert strip_end_marks("8</s><|im_end|>") == "8"


def test_a_mark_is_found_anywhere() -> None:
    for mark in TURN_MARKS:
        found = TURN_MARK.search(f"before {mark} after")
        assert found
        assert found[0] == mark
    assert not TURN_MARK.search("a < |b| and [INS] or </strong> x<s>")


def test_long_runs_of_marks_and_space_take_linear_time() -> None:
    assert strip_end_marks("x" + "</s>\n" * 200_000) == "x"
    assert strip_end_marks("<s>" + " " * 1_000_000 + "</s>").endswith("</s>")
