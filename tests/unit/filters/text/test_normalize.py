"""Texts that are compared as words."""

from filters.grade import verify


def test_marks_between_digits_and_texts_of_signs_alone_keep_their_signs():
    for reference, answer in (
        ("1.234", "1,234"),
        ("3:1", "3.1"),
        ("12:50", "12.50"),
        ("3.5 million", "3,5 million"),
        (") ]", "]"),
        ("( ( ) )", ") ( ) ("),
        ("{ < > }", "< >"),
    ):
        assert verify(reference, answer, "text").outcome != "correct", answer
        assert verify(reference, f"{reference}.", "text").outcome == "correct", reference
    assert verify("Paris, France", "paris france.", "text").outcome == "correct"
    assert verify("10", "10.0", "text").outcome == "undecided"
