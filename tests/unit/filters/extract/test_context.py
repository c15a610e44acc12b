r"""What stands directly beside a box, and whether it changes the answer."""

import pytest

from filters.rules.correct import grade_response


@pytest.mark.parametrize(
    "response",
    [
        r"<answer>\boxed{12}</answer>",
        "<answer>\n$\\boxed{12}$\n</answer>",
        r"<p>Thus $x = 12$.</p> <b>\boxed{12}</b>",
        r"\boxed{\boxed{12}}",
        r"\colorbox{yellow}{$\displaystyle\boxed{12}$}",
        r"\textcolor{red}{\boxed{12}}",
        r"3 * 4 => \boxed{12}",
        r"$3 \cdot 4 = 12 \implies\boxed{12}$",
        "So:\n> $\\boxed{12}$",
        r"$\boxed{12}^\circ$",
    ],
)
def test_tags_arrows_and_styles_around_a_box_do_not_change_it(response):
    assert grade_response("12", response, "math").outcome == "passed"


@pytest.mark.parametrize(
    "response",
    [
        r"x > \boxed{12}",
        r"x >= \boxed{12}",
        r"It is not <answer>\boxed{12}</answer>",
        r"$\sqrt{\displaystyle\boxed{12}}$",
        r"$2\textcolor{red}{\boxed{12}}$",
        r"$\ln \boxed{12}$",
        r"$\log_2 \boxed{12}$",
        r"$\boxed{12}^2$",
    ],
)
def test_operations_and_denials_beside_a_box_change_it(response):
    assert grade_response("12", response, "math").reason == "qualified"


@pytest.mark.parametrize(
    "check",
    [
        "Check: the sum should be 12, and it is.",
        "Check: 5 + 7 should be $12$. It is 12.",
        "Instead of adding 3 four times, we multiplied 3 by 4.",
        "Rather than adding 3 four times, we multiplied 3 by 4.",
    ],
)
def test_a_check_of_the_same_value_takes_nothing_back(check):
    assert grade_response("12", f"\\boxed{{12}}\n\n{check}", "math").outcome == "passed"


@pytest.mark.parametrize(
    "turn",
    [
        "It should be 12.5.",
        "It should be 12 + 1.",
        "It should be 12 times 2.",
        "The sum should be 12? It should be 13.",
        "Instead, it is 13.",
        "Instead of 12 it should be 13.",
        "Rather 13.",
    ],
)
def test_a_turn_to_another_value_takes_the_answer_back(turn):
    assert grade_response("12", f"\\boxed{{12}}. {turn}", "math").reason == "retracted"
