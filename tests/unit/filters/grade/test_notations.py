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


def test_the_value_of_a_function_of_a_variable_is_not_that_of_the_variable():
    for reference, answer in (
        ("z = 1+i", r"\overline{z} = 1+i"),
        (r"\overline{z} = 1-i", "z = 1-i"),
        (r"\cos A = \frac{1}{2}", r"A = \frac{1}{2}"),
        ("x = 2", r"\log x = 2"),
        ("x = 2", r"\sin x = 2"),
        ("x = 2", "f(x) = 2"),
        ("p", r"\neg p"),
    ):
        assert verify(reference, answer).outcome != "correct", answer
    assert verify("x = 2", r"\text{radius} = 2").outcome == "correct"
    assert verify("f(x) = x + 1", "y = x + 1").outcome == "correct"
