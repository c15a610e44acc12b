"""Tests of programs in a column of a source: the supported forms, and why a row is invalid."""

import json

import pytest
from pydantic import ValidationError

from filters.sandbox.python_tests import run_tests
from pipeline.config.benchmarks import sets_of
from pipeline.config.evaluate import EvaluationSet
from pipeline.config.sources import FileSource
from pipeline.ingest.files import BadRow
from pipeline.ingest.sources import check
from tests.unit.pipeline.ingest.test_sources import bad, everything, file, problems, write_parquet

SUM = [{"input": "2 3", "output": "5"}, {"input": "", "output": "0"}]
PROGRAM = "import sys\nprint(sum(map(int, sys.stdin.read().split())))"
FUNCTION = "def total(*numbers):\n    return sum(numbers)"
ASSERTS = ["assert total(2, 3) == 5", "assert total() == 0"]


def source(folder, tests, **settings):
    row = {"question": "Write a program that adds.", "cases": tests}
    return file(folder / "p.jsonl", json.dumps(row) + "\n", answer_type="python", tests="cases", **settings)


@pytest.mark.parametrize(
    ("tests", "program"),
    [
        (ASSERTS, FUNCTION),
        (json.dumps(ASSERTS), FUNCTION),
        ({"asserts": ASSERTS, "setup": "import math"}, FUNCTION),
        (SUM, PROGRAM),
        (json.dumps(SUM), PROGRAM),
        ({"tests": SUM}, PROGRAM),
        ({"inputs": ["2 3", ""], "outputs": ["5", "0"]}, PROGRAM),
        (json.dumps({"inputs": ["2 3", ""], "outputs": ["5\n", "0\n"]}), PROGRAM),
        ({"inputs": [["2", "3"], []], "outputs": [["5"], ["0"]]}, PROGRAM),
        ({"input": ["2 3", ""], "output": ["5", "0"]}, PROGRAM),
        ([{"input": 5, "output": 5.0, "type": "stdin_stdout"}], PROGRAM),
    ],
    ids=str,
)
def test_tests_in_every_usual_form_grade_a_program(tmp_path, tests, program):
    rows = source(tmp_path, tests)
    check(rows)
    (problem,) = problems(rows)
    assert (problem.answer_type, problem.reference) == ("python", None)
    assert run_tests(program, problem.metadata, seconds=2).outcome == "passed"
    assert run_tests("total = print", problem.metadata, seconds=2).outcome == "failed"


HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": "import math\n\ndef half(n):\n    return n / 2\n\ndef root(n: int):\n    import math\n"
    '    """ The root of n.\n    >>> root(4)\n    2\n    """\n',
    "canonical_solution": "    return math.isqrt(n)\n",
    "test": "METADATA = {}\n\ndef check(candidate):\n    assert candidate(9) == half(6)\n"
    "    assert [candidate(n) for n in (16, 25)] == [4, 5], 'Error'\n"
    "    assert abs(candidate(2) - 1.0) < 1e-6\n",
    "entry_point": "root",
}
EQUALS_ALL = """class Any:
    __eq__ = __lt__ = lambda self, other: True
    __abs__ = __sub__ = lambda self, *other: self
    __float__ = lambda self: 3.0
def half(n): return Any()
def check(candidate): pass
METADATA = abs = lambda n: 0
def root(n): return Any()"""


def humaneval(folder, **changed):
    (given,) = sets_of(f"humaneval={folder / 'p.jsonl'}")
    (preset,) = EvaluationSet.model_validate(given).sources
    return preset.model_copy(
        update={"path": file(folder / "p.jsonl", json.dumps(HUMANEVAL | changed) + "\n").path}
    )


@pytest.mark.parametrize(
    ("program", "outcome"),
    [
        (HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"], "passed"),
        ("def root(n):\n    return int(2 * half(math.sqrt(n)))", "passed"),
        ("def root(n):\n    return n / 3", "failed"),
        ("", "failed"),
        (EQUALS_ALL, "failed"),
        ("import os\nos._exit(0)", "failed"),
    ],
)
def test_the_check_of_humaneval_grades_a_program_that_cannot_reach_it(tmp_path, program, outcome):
    rows = humaneval(tmp_path)
    check(rows)
    (problem,) = problems(rows)
    assert HUMANEVAL["prompt"] in problem.question
    assert "assert" not in problem.question
    assert problem.column_values == {"task_id": "HumanEval/0"}
    assert run_tests(program, problem.metadata, seconds=5).outcome == outcome


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"entry_point": "root(4) or print"}, "the tests are not code with the name of a function"),
        ({"prompt": "Write root."}, "the question does not begin a program"),
        ({"test": "def test(candidate):\n    assert candidate(4) == 2"}, "do not define check"),
        ({"test": "def check(candidate):\n    candidate(4)"}, "do not define check"),
    ],
)
def test_a_row_of_humaneval_that_checks_nothing_is_a_bad_row(tmp_path, changed, why):
    (line,) = bad(humaneval(tmp_path, **changed))
    assert why in line


def test_the_tests_of_mbpp_are_shown_and_grade_a_program(tmp_path):
    row = {
        "source_file": "Benchmark.ipynb",
        "task_id": 1,
        "prompt": "Write a function to find the area of a circle.",
        "code": "def area(r):\n  return 3.14159265 * r * r",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(area(1), math.pi, rel_tol=1e-3)", "assert area(0) == 0"],
    }
    (given,) = sets_of(f"mbpp={file(tmp_path / 'p.jsonl', json.dumps(row) + chr(10)).path}")
    (rows,) = EvaluationSet.model_validate(given).sources
    check(rows)
    (problem,) = problems(rows)
    assert problem.question.startswith(row["prompt"])
    assert "\n".join(row["test_list"]) in problem.question
    assert (problem.reference, problem.column_values) == (None, {"task_id": 1})
    assert run_tests(row["code"], problem.metadata, seconds=5).outcome == "passed"
    assert run_tests("def area(r):\n  return 3 * r * r", problem.metadata, seconds=5).outcome == "failed"
    cheat = "import math\nmath.isclose = lambda *a, **k: True\ndef area(r):\n  return 0"
    assert run_tests(cheat, problem.metadata, seconds=5).outcome == "failed"


def test_tests_are_read_from_parquet_and_inside_another_column(tmp_path):
    row = {"question": "Write total.", "test": {"list": ASSERTS, "pairs": SUM}}
    for column, key in (("test.list", "asserts"), ("test.pairs", "tests")):
        rows = write_parquet(tmp_path / "p.parquet", [row])
        rows = FileSource(kind="file", path=rows.path, answer_type="python", tests=column)
        check(rows)
        assert list(json.loads(problems(rows)[0].metadata)) == [key]


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        (None, "no tests"),
        ("", "no tests"),
        ([], "no tests"),
        ({"inputs": [], "outputs": []}, "no tests"),
        (3, "not a list of assertions"),
        ({"a": 1}, "there is no inputs"),
        ([ASSERTS[0], SUM[0]], "not a list of assertions"),
        (ASSERTS[0], "a text that is not JSON: Expecting value at character 1"),
        (["total(2, 3)"], "assert 1 asserts nothing: 'total(2, 3)'"),
        ([ASSERTS[0], "assert total("], "assert 2 is not Python"),
        ({"asserts": ASSERTS, "setup": "import ("}, "setup is not Python"),
        ({"tests": [{"input": "2"}]}, "tests.0.output: Field required"),
        ([{"input": "2"}], "test 1 has no output"),
        ([{"input": {"a": 2}, "output": "2"}], "the input of test 1 is a dict, not a text"),
        ({"inputs": ["1"], "outputs": ["1", "2"]}, "1 inputs and 2 outputs"),
        ({"inputs": [[1]], "outputs": [[1]], "fn_name": "total"}, "fn_name = 'total'"),
        ([{"input": "1", "output": "1", "testtype": "functional"}], "testtype = 'functional'"),
    ],
    ids=str,
)
def test_a_program_without_usable_tests_is_a_bad_row(tmp_path, tests, why):
    (found,) = bad(source(tmp_path, tests))
    assert found.startswith("p.jsonl:1: ")
    assert why in found


def test_text_that_is_not_unicode_is_a_bad_row(tmp_path):
    found = everything(source(tmp_path, [{"input": "\ud800", "output": "x"}]))
    assert isinstance(found[0], BadRow)
    deep = '{"question": "q", "cases": ' + "[" * 900 + "]" * 900 + "}"
    rows = file(tmp_path / "d.jsonl", deep, answer_type="python", tests="cases")
    assert isinstance(everything(rows)[0], BadRow)


def test_tests_may_have_a_reference_in_another_column(tmp_path):
    line = json.dumps({"question": "q", "code": FUNCTION, "cases": ASSERTS})
    rows = file(tmp_path / "p.jsonl", line, answer_type="python", tests="cases", reference="code")
    assert problems(rows)[0].reference == FUNCTION


@pytest.mark.parametrize("settings", [{"answer_type": "python"}, {"tests": "cases"}])
def test_tests_and_the_type_python_are_set_together(settings):
    with pytest.raises(ValidationError, match="together with tests"):
        FileSource(kind="file", path="p.jsonl", **settings)


def test_a_reference_that_is_data_becomes_json_for_the_type_json(tmp_path):
    line = '{"question": "q", "answer": {"a": [1, 0.10, null, true, "é"]}}'
    rows = file(tmp_path / "p.jsonl", line, answer_type="json")
    assert json.loads(problems(rows)[0].reference) == {"a": [1, 0.1, None, True, "é"]}
    assert "0.10" in problems(rows)[0].reference
    assert "an object, not a text" in bad(file(tmp_path / "m.jsonl", line))[0]
    assert "not JSON" in bad(file(tmp_path / "n.jsonl", line.replace("null", "NaN"), answer_type="json"))[0]
