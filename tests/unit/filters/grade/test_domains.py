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


def test_letters_of_another_case_are_other_variables_also_beside_a_command_or_a_word():
    for reference, answer in (
        (r"\frac{GMm}{r^2}", r"\frac{GMm}{R^2}"),
        (r"\frac{1}{2}mv^2", r"\frac{1}{2}mV^2"),
        (r"\frac{\mu_0 I}{2\pi r}", r"\frac{\mu_0 I}{2\pi R}"),
        (r"\frac{3}{2}k_BT", r"\frac{3}{2}k_Bt"),
        (r"f(x)=\max\{|x|, 1\}", r"f(x)=\max\{|X|, 1\}"),
        (r"\neg p \land q", r"\neg (p \land q)"),
    ):
        assert verify(reference, answer).outcome != "correct", answer
        assert verify(reference, reference).outcome == "correct", reference
    assert verify(r"\text{Type 2 diabetes}", "type 2 Diabetes").outcome == "correct"
