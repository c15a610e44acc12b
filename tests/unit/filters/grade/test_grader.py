"""The grader on golden cases and on hostile answers."""

import json
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from filters.grade.compare import compare
from filters.grade.grader import grade_answer
from filters.grade.numbers import parse_number
from filters.policy import DEFAULT, Policy
from filters.rules.correct import grade_response

CASES = [json.loads(line) for line in Path("tests/cases/grader.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['reference']}|{case['answer']}"[:50])
def test_correct_answers_pass_and_near_misses_do_not(case):
    result = grade_answer(case["reference"], case["answer"], case["type"])
    assert (result.outcome, result.reason) == (case["outcome"], case["reason"])


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
def test_a_hostile_answer_is_never_correct_and_costs_little_memory(answer):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = grade_answer("7", answer, "math", timeout=1)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert result.outcome != "passed"
    assert after - before < 100_000, "kilobytes"


@pytest.mark.parametrize("answer_type", ["math", "text"])
def test_code_in_an_answer_does_not_run(tmp_path, answer_type):
    mark = tmp_path / "mark"
    for code in (f"__import__('os').system('touch {mark}')", f"[open('{mark}', 'w') for _ in '1']"):
        assert grade_answer("7", code, answer_type, timeout=2).outcome != "passed"
        assert grade_answer("7", f"${code}$", answer_type, timeout=2).outcome != "passed"
    assert not mark.exists()


def test_a_comparison_that_takes_too_long_is_undecided():
    result = grade_answer("7", r"\lim_{x \to 0} \sum_{n=1}^{1000000000} \sin(n^2 x)", "math", timeout=0.5)
    assert (result.outcome, result.reason, result.layer) == ("undecided", "timeout", "worker")


@pytest.mark.parametrize(
    ("reference", "answer", "outcome"),
    [
        (r"\int_0^1 x^2 dx", r"\frac13", "passed"),
        (r"\lim_{x \to 2} x^2", "4", "passed"),
        (r"\int_0^1 x^2 dx", r"\frac14", "failed"),
    ],
)
def test_formulas_that_need_sympy_go_to_math_verify(reference, answer, outcome):
    result = grade_answer(reference, answer, "math", timeout=10)
    assert (result.outcome, result.layer) == (outcome, "worker")


def test_an_unreadable_reference_is_undecided():
    result = grade_answer(r"\frac{\frac{", "7", "math")
    assert (result.outcome, result.reason) == ("undecided", "unreadable_reference")


@pytest.mark.parametrize(
    "answer", ["5 hundred", "5 thirds", "5 or 6", "5 and 6", "5 pi", "5 pairs", "5 x", "5!"]
)
def test_a_word_that_changes_a_number_is_not_read_as_its_unit(answer):
    assert same("5", answer) is not True


@pytest.mark.parametrize("kind", ["math", "number"])
@pytest.mark.parametrize(
    "answer",
    [
        "5 Millionen",
        "5 mille",
        "5 тысяч",
        "5 millones",
        "5 milhões",
        "5 Mrd.",
        "5 juta",
        "5 triệu",
        "5억",
        "5 Dutzend",
    ],
)
def test_a_scale_in_another_language_is_no_unit(answer, kind):
    assert grade_response("5", answer, kind).outcome != "passed"
    assert grade_response("5", f"Die Antwort ist {answer}", kind).outcome != "passed"


@pytest.mark.parametrize(
    "text", ["e5", "-e5", "-", "+", ".", "", "1/0", "1,00", "1e9999", "9" * 51, "٣e", "1 2 3", "0,111"]
)
def test_a_text_that_is_no_plain_number_is_not_parsed_as_one(text):
    assert parse_number(text) is None


def test_units_of_known_size_are_converted():
    assert same("5 miles", "5 km") is False
    assert same("5 km", "5000 m") is True
    assert same("5 zorks", "5 blips") is None
    assert same("5 zorks", "6 blips") is not True


@pytest.mark.parametrize(
    ("reference", "answer", "policy", "by_default", "then"),
    [
        ("1/3", "0.33", Policy(rounding_digits=2), False, True),
        ("1/3", "0.33333", Policy(rounding_digits=0), True, False),
        (r"\sqrt{2}", "1.4142", Policy(rounding_digits=6), True, False),
        ("10", r"10\%", Policy(percent_sign_optional=False), True, False),
        ("18", "18 dollars", Policy(unit_optional=False), True, False),
        ("1, 2", "2, 1", Policy(ordered_lists=True), True, False),
        ("Paris", "paris", Policy(case_sensitive=True), True, False),
    ],
)
def test_each_policy_is_a_setting(reference, answer, policy, by_default, then):
    assert same(reference, answer) is by_default
    assert same(reference, answer, policy) is then


def test_several_boxes_are_one_list_or_only_the_last_counts():
    response = r"So \boxed{1} and \boxed{2}."
    assert grade_response("1, 2", response, "math").outcome == "passed"
    assert grade_response("1, 2", response, "math", policy=Policy(several_boxes="last")).outcome == "failed"
    assert grade_response("2", response, "math", policy=Policy(several_boxes="last")).outcome == "passed"


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("(x+y+z)^{200}", "(x+y+z)^{200}+1"),
        ("x", "x + 10^{-20}"),
        ("10^{12}", r"\sqrt{10^{24}+1}"),
        (r"e^{\pi\sqrt{163}}", "262537412640768744"),
        ("x^{60}+x", "x^{60}"),
        ("|x|", "x"),
        (r"\frac{1}{2^{98}}", r"\frac{1}{2^{98.5}}"),
        (r"\frac{1+\sqrt{2}}{2^{200}}", r"\frac{1+\sqrt{3}}{2^{200}}"),
    ],
)
def test_nearly_equal_formulas_are_not_equal(reference, answer):
    assert same(reference, answer) is False


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("0", r"\sin^2 x + \cos^2 x - 1"),
        (r"\sqrt{2+\sqrt{3}}", r"\frac{\sqrt{6}+\sqrt{2}}{2}"),
        ("0", r"\sin \pi"),
    ],
)
def test_formulas_that_are_equal_only_after_cancellation_are_equal(reference, answer):
    assert same(reference, answer) is True


@pytest.mark.parametrize(
    ("reference", "response", "outcome"),
    [
        ("12", "The answer is 12, not 13.", "undecided"),
        ("5", "We get $x = 5$ or $x = -3$, but x>0 so $x=5$.", "passed"),
        ("5", "The answer is 5 or 6.", "failed"),
        (r"\frac{9}{2}", r"3 1\frac{1}{2}", "undecided"),
    ],
)
def test_prose_with_several_numbers_is_no_list(reference, response, outcome):
    assert grade_response(reference, response, "math").outcome == outcome


def test_an_answer_that_contradicts_itself_is_undecided():
    assert compare("11", "5 + 5 = 7 = 11", DEFAULT)[::2] == (None, "ambiguous")
    assert compare(r"\frac{1}{3}", r"\frac{1}{3} \approx 1.3", DEFAULT)[::2] == (None, "ambiguous")


def same(reference, answer, policy=DEFAULT):
    return compare(reference, answer, policy).equal


RESPONSES = [json.loads(line) for line in Path("tests/cases/responses.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: f"{case['reference']}|{case['response']}"[:50])
def test_responses_in_many_forms_are_graded_as_a_person_would(case):
    result = grade_response(case["reference"], case["response"], "math")
    assert (result.outcome, result.reason, result.layer) == (case["outcome"], case["reason"], case["layer"])


def test_eight_hostile_answers_at_once_are_graded_in_time():
    with ThreadPoolExecutor(8) as threads:
        results = list(
            threads.map(
                lambda answer: grade_answer("7", answer, "math", timeout=1), list(HOSTILE.values()) * 2
            )
        )
    assert "passed" not in {result.outcome for result in results}


def test_grading_loads_neither_pydantic_nor_sympy():
    probe = (
        "import sys\nfrom filters.rules.correct import grade_response\n"
        r"assert grade_response(r'2\sqrt{2}', r'\sqrt 8', 'math').outcome == 'passed'"
        "\n"
        "print({'pydantic', 'sympy', 'math_verify'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_the_seed_of_string_hashes_decides_nothing(seed):
    code = (
        "from filters.grade import verify\n"
        "print(verify('1,-1,7,-7', 'A').outcome, verify('-2,1', 'A').outcome)"
    )
    environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["undecided", "incorrect"], done.stderr
