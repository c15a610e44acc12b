"""Inequalities with two bounds, and what stands between the bounds."""

from filters.grade import verify


def test_what_stands_between_two_bounds_counts():
    for reference, answer in (
        ("a < x < b", "a < x^2 < b"),
        ("a < x < b", "a < y < b"),
        ("a < x < a+1", "a < 2x < a+1"),
        ("m < n < p", "m < q < p"),
    ):
        assert verify(reference, answer).outcome != "correct", answer
    for reference, answer in (
        ("a < x < b", "b > x > a"),
        ("a < x < b", "(a, b)"),
        ("a < b < c", "c > b > a"),
    ):
        assert verify(reference, answer).outcome == "correct", answer
