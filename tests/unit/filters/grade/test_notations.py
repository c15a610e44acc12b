r"""Notations that may mean the same, so that the answer is not incorrect."""

from filters.grade import verify


def test_a_decimal_comma_may_stand_for_a_fraction():
    for reference, answer in ((r"\frac{25}{2}", "12,5"), ("25/2", "12,50"), ("1/8", r"12,5\%")):
        assert verify(reference, answer).outcome == "undecided", answer
    assert verify("25/2", "12,6").outcome == "incorrect"
    assert verify("2.74", "2,74").outcome == "correct"


def test_formulas_with_floor_or_ceil_may_be_meant_for_whole_numbers():
    assert verify(r"\lceil \frac{n}{2} \rceil", r"\lfloor \frac{n+1}{2} \rfloor").outcome == "undecided"
    assert verify(r"\lceil \frac{n}{2} \rceil", r"\lfloor \frac{n}{2} \rfloor").outcome == "incorrect"
