"""The three answers of verification, on golden cases and on answers made to hurt."""

import json
import resource
from pathlib import Path

import pytest

from filters.plain import compare, fold, read_number
from filters.verify import verify

CASES = [json.loads(line) for line in Path("tests/cases/verify.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['reference']}|{case['answer']}"[:50])
def test_right_answers_are_accepted_and_near_misses_refused(case):
    finding = verify(case["reference"], case["answer"], case["type"])
    assert (finding.outcome, finding.reason) == (case["outcome"], case["reason"])


HOSTILE = {
    "a tower of powers": "9**9**9**9",
    "a tower in LaTeX": "10^{10^{10}}",
    "a huge exponent": "1e999999999",
    "ten million digits": "9" * 10_000_000,
    "digits within the limit": "9" * 1_900,
    "a huge factorial": "(100000!)!",
    "a long sum": r"\sum_{n=1}^{1000000000} \sin(n^2)",
    "deep parentheses": "(" * 900 + "1" + ")" * 900,
    "deep fractions": r"\frac{1}{1+" * 150 + "1" + "}" * 150,
    "deep braces": "{" * 900,
    "many minus signs": "-" * 1_900,
    "not a number": "nan",
}


@pytest.mark.parametrize("answer", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_answer_is_never_right_and_costs_the_caller_little(answer):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    finding = verify("7", answer, "math", timeout=1)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert finding.outcome != "pass"
    assert after - before < 100_000, "kilobytes"


@pytest.mark.parametrize("answer_type", ["math", "text"])
def test_code_in_an_answer_does_not_run(tmp_path, answer_type):
    mark = tmp_path / "mark"
    for code in (f"__import__('os').system('touch {mark}')", f"[open('{mark}', 'w') for _ in '1']"):
        assert verify("7", code, answer_type, timeout=2).outcome != "pass"
        assert verify("7", f"${code}$", answer_type, timeout=2).outcome != "pass"
    assert not mark.exists()


def test_a_comparison_that_takes_too_long_is_no_verdict():
    finding = verify("7", r"\sum_{n=1}^{1000000000} \sin(n^2)", "math", timeout=0.5)
    assert (finding.outcome, finding.reason) == ("unknown", "timeout")


def test_a_reference_that_nobody_can_read_is_no_verdict():
    finding = verify(r"\frac{\frac{", "7", "math")
    assert (finding.outcome, finding.reason) == ("unknown", "unreadable_reference")


@pytest.mark.parametrize(
    "answer", ["5 hundred", "5 thirds", "5 or 6", "5 and 6", "5 percent", "5 pi", "5 pairs", "5 x", "5!"]
)
def test_a_word_that_changes_a_number_is_not_taken_for_its_unit(answer):
    assert compare("5", fold(answer)) is not True


@pytest.mark.parametrize(
    "text", ["e5", "-e5", "-", "+", ".", "", "1.", "1/0", "1,00", "1e9999", "9" * 51, "٣e", "1 2 3"]
)
def test_what_is_not_a_plain_number_is_not_read_as_one(text):
    assert read_number(text) is None


def test_two_units_are_not_compared_by_their_numbers():
    assert compare("5 miles", "5 km") is None
    assert compare("5 miles", "5 mile") is True


def test_a_decimal_that_may_be_a_rounding_is_left_to_the_next_layer():
    assert compare("1/3", "0.333") is None
    assert compare("0.34", "0.333") is False
