"""The public grader: `from filters.grade import parse, verify`."""

import doctest
import subprocess
import sys
from pathlib import Path

import pytest

import filters.grade
from filters.grade import AnswerType, Policy, parse, verify

ROOT = Path(__file__).resolve().parents[4]


def test_the_examples_of_the_docstrings_hold() -> None:
    outcome = doctest.testmod(filters.grade)
    assert outcome.attempted > 5
    assert outcome.failed == 0


def test_importing_it_loads_nothing_of_pipeline_and_no_heavy_library(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from filters.grade import parse, verify
assert verify("1/2", parse("So it is \\\\boxed{{0.5}}."))
assert verify("[1, 2]", parse("Here: [1, 2.0]", "json"), "json")
heavy = ("pydantic", "sympy", "math_verify", "mpmath", "pyarrow")
print([name for name in sys.modules if name.split(".")[0] in ("pipeline", *heavy)])
"""
    command = [sys.executable, "-I", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


@pytest.mark.parametrize(
    ("reference", "response", "answer_type", "outcome"),
    [
        ("18", "She has $18 left.", "number", "correct"),
        ("yes", "Yes, it is.", "yes_no", "correct"),
        ("Paris", "The answer is Lyon.", "text", "incorrect"),
        ("2", "I do not know.", "math", "undecided"),
    ],
)
def test_a_response_is_parsed_and_graded(
    reference: str, response: str, answer_type: AnswerType, outcome: str
) -> None:
    assert verify(reference, parse(response), answer_type).outcome == outcome


def test_only_a_correct_answer_is_true() -> None:
    assert verify("7", "7.0")
    assert not verify("7", "8")
    assert not verify("7", None)
    assert verify("7", None).reason == "no_answer"


def test_a_policy_decides_what_mathematics_leaves_open() -> None:
    assert not verify("1/3", "0.33")
    assert verify("1/3", "0.33", policy=Policy(rounding_digits=2))


def test_equal_values_of_several_unknowns_are_not_one_value():
    for answer in ("x = 2, y = 2", r"x = 2 \text{ and } y = 2", "a = 2, b = 2, c = 2"):
        assert verify("2", answer).outcome == "undecided", answer
    assert verify("3/4", r"x = \frac{3}{4}, x = 0.75").outcome == "correct"
    assert verify("x = 2, y = 2", "(2, 2)").outcome == "correct"
