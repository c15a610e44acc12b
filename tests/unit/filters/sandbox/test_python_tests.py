"""Correct, incorrect and hostile programs, run against tests in the sandbox."""

import json
import threading
from pathlib import Path

import pytest

from filters.sandbox.python_tests import last_block, passes_tests, run_tests, same_output
from tests.unit.filters.test_table import a_trace

CASES = [json.loads(line) for line in Path("tests/cases/code.jsonl").read_text("utf-8").splitlines()]
LIMITS = {"seconds": 1.0, "memory_mb": 256}
TESTS = json.dumps({"tests": [{"input": "2 3", "output": "5"}]})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_a_program_is_graded_by_its_tests(case):
    result = run_tests(case["code"], json.dumps(case["tests"]), **(LIMITS | case.get("limits", {})))
    assert (result.outcome, result.reason) == (case["outcome"], case["reason"]), result.evidence


def test_the_last_python_block_is_graded():
    good, bad = "print(sum(map(int, input().split())))", "print(0)"
    for response, reason in (
        (f"First:\n```python\n{bad}\n```\nBetter:\n```python\n{good}\n```\nSo be it.", ""),
        (f"```python\n{good}\n```\nIt prints:\n```\n5\n```\nor with a shell\n```bash\npython x.py\n```", ""),
        (f"```\n{good}\n```", ""),
        (f"```\n{good}\n```\nFor 2 3 it prints:\n```\n5\n```", ""),
        (f"```python\n{good}\n```\nThe input:\n```python\n2 3\n```", ""),
        (f"~~~py\n{good}\n~~~", ""),
        (f"```python\n{good}\n```\n```python\n{bad}\n```", "wrong_output"),
        (good, "no_answer"),
        (f"```python\n{good}", "no_answer"),
    ):
        trace = a_trace(response=response, metadata=TESTS)
        assert passes_tests(trace).reason == reason, response
    assert passes_tests(a_trace(response="```\nx\n```")).reason == "no_tests"


def test_a_block_fenced_by_four_marks_may_contain_three():
    assert last_block("````python\ns = '''\n```\n'''\n````\n") == "s = '''\n```\n'''\n"
    assert last_block("```" * 100_000) is None


def test_outputs_are_compared_word_by_word():
    assert same_output("1 2\n3\n", "1 2 \n3")
    assert same_output("1000000.5", "1000000.6")
    assert not same_output("1 2", "12")
    assert not same_output("0.5", "0.5 0.5")
    assert not same_output("0.5", "inf")


@pytest.mark.parametrize("module", ["numpy", "sortedcontainers"])
def test_only_an_import_in_the_text_makes_a_program_undecided(module):
    for code, outcome in (
        (f"import {module}\nprint(5)", "undecided"),
        (f"try:\n    import {module}\nexcept ImportError:\n    pass\nprint(5)", "passed"),
        (f"try:\n    from {module} import x\nexcept ImportError:\n    pass\nprint(6)", "undecided"),
        (f"raise ModuleNotFoundError(\"No module named '{module}'\")", "failed"),
        (f"print('import {module}')", "failed"),
        (f"import {module}s", "failed"),
    ):
        assert run_tests(code, TESTS, **LIMITS).outcome == outcome, code


def test_programs_run_in_parallel_threads():
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(run_tests("print(5)", TESTS, seconds=5.0)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [f.outcome for f in results] == ["passed"] * 8
