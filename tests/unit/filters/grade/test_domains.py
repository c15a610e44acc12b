r"""The domain of a variable beside an answer: k \pi, k \in \mathbb{Z}."""

import pytest

from filters.grade import verify


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        (r"x = k\pi\ (k \in \mathbb{Z})", r"x = k\pi, k \in \mathbb{Z}"),
        (r"\frac{\pi}{2} + k\pi (k\in\mathbb{Z})", r"k\pi + \pi/2"),
        (r"k\pi (k \in Z)", r"k\pi, k\in\mathbb{Z}"),
    ],
)
def test_a_domain_may_stand_in_brackets_or_be_left_out(reference, answer):
    assert verify(reference, answer).outcome == "correct"


def test_another_domain_may_be_another_answer():
    assert verify(r"2k\pi, k \in \mathbb{Z}", r"2k\pi, k \in \mathbb{N}").outcome == "undecided"
    assert verify(r"k\pi (k\in\mathbb{Z})", r"k\pi (k\in\mathbb{Z}^+)").outcome == "undecided"
    assert verify(r"2k\pi, k \in \mathbb{Z}", r"k\pi, k \in \mathbb{N}").outcome == "incorrect"
    assert verify(r"f(x) (x \in A)", r"f(x)").outcome != "correct"
