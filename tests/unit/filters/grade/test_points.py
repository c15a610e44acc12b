"""Points with a name, and systems of equations that state a point."""

import pytest

from filters.grade import verify

SYSTEM = r"\begin{cases} x=1 \\ y=2 \end{cases}"


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("(0, -3)", "F(0,-3)"),
        ("A(1,2)", "(1,2)"),
        ("(1,2)", SYSTEM),
        (SYSTEM, "x = 1, y = 2"),
        ("(1,2)", r"\begin{aligned} x&=1\\ y&=2\end{aligned}"),
        ("(1,2)", r"\left\{\begin{array}{l} y=2, \\ x=1. \end{array}\right."),
    ],
)
def test_names_of_points_and_systems_of_assignments_are_read(reference, answer):
    assert verify(reference, answer).outcome == "correct"


@pytest.mark.parametrize(
    "answer", ["F(2,1)", r"\begin{cases} x=2 \\ y=1 \end{cases}", SYSTEM.replace("1", "3")]
)
def test_other_coordinates_are_another_point(answer):
    assert verify("(1,2)", answer).outcome == "incorrect"
