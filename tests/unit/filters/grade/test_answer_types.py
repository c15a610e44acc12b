"""Each answer type on golden cases and on hostile answers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from filters.policy import Policy
from filters.rules.correct import correct, grade_response
from filters.table import check_rules
from pipeline.cli.main import ANSWER_TYPES
from pipeline.errors import UserError
from pipeline.rows import AnswerType
from tests.unit.filters.test_table import a_trace

CASES = [json.loads(line) for line in Path("tests/cases/answer_types.jsonl").read_text("utf-8").splitlines()]
TESTS = json.dumps({"asserts": ["assert double(2) == 4"]})


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['type']}|{case['response']}"[:50])
def test_each_answer_type_has_its_own_comparison(case):
    result = grade_response(case["reference"], case["response"], case["type"])
    assert (result.outcome, result.reason) == (case["outcome"], case["reason"]), result


def test_every_type_is_graded_and_the_command_offers_those_that_need_two_texts():
    assert set(ANSWER_TYPES) == set(get_args(AnswerType)) - {"free", "python", "reasoning_gym"}
    for kind in get_args(AnswerType):
        trace = a_trace(answer_type=kind, reference=None, response="The answer is 7.", finish_reason="stop")
        assert correct(trace).outcome != "passed", kind


def test_a_truth_that_others_state_or_that_is_of_another_claim_is_undecided():
    for response in ("One might say: yes", "A common mistake is to say: yes", "Its negation is true."):
        assert grade_response("yes", response, "yes_no").outcome == "undecided", response
    assert grade_response("yes", "In short: yes", "yes_no").outcome == "passed"


@pytest.mark.parametrize("kind", ["choice", "math"])
def test_an_option_that_is_only_denied_is_not_chosen(kind):
    for said in (
        "(B) is wrong",
        "(b) is false; hence (a)",
        "B) is not the answer",
        "[B] is incorrect.",
    ):
        assert grade_response("B", said, kind).outcome != "passed", said
    for said in (
        "(B) is correct",
        "B) It is false",
        "(B) is not conserved",
        "(A) is wrong. The answer is B.",
    ):
        assert grade_response("B", said, "choice").outcome == "passed", said


def test_the_policies_of_mathematics_apply_to_numbers():
    assert grade_response("1/3", "0.33", "number", policy=Policy(rounding_digits=2)).outcome == "passed"
    assert (
        grade_response("18", "18 dollars", "number", policy=Policy(unit_optional=False)).outcome == "failed"
    )


def test_the_end_of_a_long_response_states_the_option_or_the_truth():
    talk = "Let us see whether A or B or C is meant, which is true or false. " * 50
    assert grade_response("D", f"{talk}So it must be D.", "choice").outcome == "passed"
    assert grade_response("B", f"{talk}So it must be D.", "choice").outcome == "failed"
    quiet = "Let us look at all of it with care. " * 50
    assert grade_response("no", f"{quiet}Hence the claim is false.", "yes_no").outcome == "passed"


@pytest.mark.parametrize(
    "response",
    [
        "[" * 90_000,
        '{"a":' * 18_000,
        "[1]" * 30_000,
        "[" * 900 + "]" * 900,
        "```json\n" * 12_000,
        "[" + "9" * 90_000 + "]",
        "[" * 3_000_000,
        "{" * 40_000 + "}" * 40_000,
    ],
    ids=lambda response: f"{response[:8]!r} {len(response)}",
)
def test_hostile_json_is_never_correct(response):
    assert grade_response("[2]", response, "json").outcome != "passed"


@pytest.mark.parametrize(
    "response",
    [
        'Not {"a": 1}',
        'The answer is not {"a": 1}',
        '```json\n{"a": 1}\n```\nNo, this is wrong.',
        '{"a": 1}\n\nScratch that.',
    ],
)
def test_json_that_its_response_denies_is_undecided(response):
    assert grade_response('{"a": 1}', response, "json").reason == "retracted"


def test_json_may_be_introduced_and_explained():
    for response in (
        'Not a list, but this:\n\n```json\n{"a": 1}\n```\nIf you need more, ask.',
        'The answer is {"a": 1}. It has no other key.',
    ):
        assert grade_response('{"a": 1}', response, "json").outcome == "passed"


def test_json_that_is_nested_too_deeply_is_refused():
    deep = "[" * 150 + "]" * 150
    assert grade_response(deep, deep, "json").reason == "refused"
    assert grade_response("[[]]", "[[]]", "json").outcome == "passed"


@pytest.mark.parametrize("kind", ["choice", "yes_no", "number"])
@pytest.mark.parametrize("piece", ["A, ", "yes. ", "B because ", "(C) ", "not ", "1,", "\\boxed{A", "？"])  # noqa: RUF001
def test_a_hostile_answer_of_any_type_costs_little(kind, piece):
    for response in (piece * 30_000, f"<answer>{piece * 30_000}</answer>"):
        assert grade_response("H" if kind == "choice" else "no", response, kind).outcome != "passed"


def test_a_program_is_graded_by_its_tests_and_needs_no_reference():
    for body, outcome in (("x + x", "passed"), ("x + 1", "failed")):
        response = f"```python\ndef double(x):\n    return {body}\n```"
        trace = a_trace(answer_type="python", reference=None, metadata=TESTS, response=response)
        assert correct(trace, code_seconds=2).outcome == outcome
    assert correct(trace.model_copy(update={"metadata": None})).reason == "no_tests"


def test_the_limits_of_a_program_are_parameters_of_the_rule():
    response = "```python\ndef double(x):\n    while True: pass\n```"
    trace = a_trace(answer_type="python", metadata=TESTS, response=response)
    assert correct(trace, code_seconds=0.5).reason == "too_slow"
    hoard = response.replace("while True: pass", "b = bytearray(400 << 20); return x + x")
    trace = trace.model_copy(update={"response": hoard})
    assert correct(trace, code_memory_mb=128).outcome == "failed"
    assert correct(trace, code_memory_mb=1024, sandbox="limits").outcome == "passed"


def test_no_type_but_python_loads_pydantic():
    probe = (
        "import sys\nfrom pipeline.cli.verify import print_verdict\n"
        "for kind, gold, pred in (('number', '7', '7'), ('choice', 'A', 'A'), ('yes_no', 'yes', 'Ja'),"
        " ('json', '[1]', '[1]')):\n    print_verdict(gold, pred, kind, ())\n"
        "print({'pydantic', 'numpy', 'sympy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.count("verdict    correct") == 4
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_limits_of_a_program_are_validated():
    check_rules({"correct": {"code_seconds": 2, "code_memory_mb": 256, "sandbox": "limits"}})
    for wrong in ({"code_seconds": 0}, {"code_memory_mb": 1}, {"sandbox": "none"}):
        with pytest.raises(UserError, match=f"correct.{next(iter(wrong))}"):
            check_rules({"correct": wrong})


@pytest.mark.parametrize(
    "said",
    [
        "La opción B es incorrecta.",
        "La opción C es la correcta, ya que la opción B es incorrecta.",
        "A opção B está errada.",
        "L'opzione B è sbagliata.",
        "La réponse B est erronée.",
        "Вариант B неверен.",
        "Верный ответ C, так как вариант B неверный.",
        "Odpowiedź B jest błędna.",
        "Option B är felaktig.",
        "B şıkkı yanlıştır.",  # noqa: RUF001
        "選項B是錯誤的。",
        "B は間違いです。",
        "B는 틀렸다.",
    ],
)
@pytest.mark.parametrize("kind", ["choice", "math"])
def test_an_option_that_is_denied_in_another_language_is_not_chosen(kind, said):
    assert grade_response("B", said, kind).outcome != "passed"


def test_an_option_that_another_language_calls_correct_is_chosen():
    for said in ("La opción A es incorrecta. La opción B es correcta.", "正解はBです。", "정답은 B입니다."):
        assert grade_response("B", said, "choice").outcome == "passed", said


def test_liters_and_cubic_meters_measure_the_same():
    for reference, answer in (("1 L", "1000 cm^3"), (r"10 \text{ mL}", "10 cc"), ("1 L", "1 dm^3")):
        assert grade_response(reference, answer, "math").outcome == "passed", answer
    for reference, answer in (("1 L", "1 cm^3"), ("1 L", "1 m^3"), ("5 L", "5 m^2"), ("5 dm", "5 cm")):
        assert grade_response(reference, answer, "math").outcome == "failed", answer
