"""Marks of a chat template as text: known ones are found, and come off the very end of an answer."""

import pytest

from filters.text.turn_marks import END_MARKS, TURN_MARK, TURN_MARKS, without_end_marks


@pytest.mark.parametrize("mark", END_MARKS)
def test_an_end_mark_comes_off_the_very_end(mark: str) -> None:
    assert without_end_marks(f"It is 7.{mark}") == "It is 7."
    assert without_end_marks(f"It is 7.\n{mark}\n") == "It is 7."
    assert without_end_marks(f"It {mark} is 7.") == f"It {mark} is 7."


def test_several_end_marks_come_off_and_text_without_any_stays_as_it_is() -> None:
    assert without_end_marks("It is 7.<|im_end|>\n<|endoftext|>") == "It is 7."
    assert without_end_marks("It is 7. \n") == "It is 7. \n"
    assert without_end_marks("<|im_end|>") == without_end_marks("") == ""
    assert without_end_marks("a<|im_end|> b") == "a<|im_end|> b"


def test_struck_text_keeps_its_closing_tag() -> None:
    assert without_end_marks("<s>8</s>") == "<s>8</s>"
    assert without_end_marks("8</s><|im_end|>") == "8"


def test_a_mark_is_found_wherever_it_stands() -> None:
    for mark in TURN_MARKS:
        found = TURN_MARK.search(f"before {mark} after")
        assert found
        assert found[0] == mark
    assert not TURN_MARK.search("a < |b| and [INS] or </strong> x<s>")


def test_long_runs_of_marks_and_space_take_linear_time() -> None:
    assert without_end_marks("x" + "</s>\n" * 200_000) == "x"
    assert without_end_marks("<s>" + " " * 1_000_000 + "</s>").endswith("</s>")
