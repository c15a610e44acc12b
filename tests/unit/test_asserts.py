"""Which block of a response is its program, and what of its assertions is compared outside of it."""

import json

import pytest

from filters.asserts import read_assert
from filters.code import last_block, passes_tests, run_tests
from tests.unit.test_filters import a_trace

LIMITS = {"seconds": 1.0, "memory_mb": 256}
FUNCTION = json.dumps({"asserts": ["assert f() == 3"]})


def test_a_fence_may_stand_in_a_list_with_its_code():
    for response in (
        "1. Code:\n\n   ```python\n   def f():\n       return 3\n   ```\n",
        "1. Code:\n   - so\n\n     ```python\n     def f():\n\n         return 3\n     ```\n",
        "- ```python\n  def f():\n      return 3\n  ```\n",
        "\t```python\n\tdef f():\n\t    return 3\n\t```\n",
        "    ```python\ndef f():\n    return 3\n    ```\n",
    ):
        assert run_tests(last_block(response), FUNCTION, **LIMITS).outcome == "pass", response


def test_a_fence_within_a_line_or_deep_in_a_block_is_none():
    text = "def f():\n    '''\n    ```\n    f()\n    ```\n    '''\n"
    assert last_block(f"Call ```f()``` as in\n```python\n{text}```\n") == text
    assert last_block("```f()```\nand\n```g()```\n") is None


def test_the_block_is_taken_that_defines_what_the_assertions_use():
    good, usage = "def f():\n    return 3", "result = f()\nprint(result)"
    for response, outcome in (
        (f"```python\n{good}\n```\nExample usage:\n```python\n{usage}\n```", "pass"),
        ("```python\nf = lambda: 3\n```\nor\n```python\nassert f() == 3\n```", "pass"),
        (f"```python\n{good}\n```\nBetter:\n```python\n{good}4\n```", "fail"),
        (f"```python\n{good}\n```\nBetter:\n```python\ndef f(:\n```", "fail"),
        (f"```python\n{usage}\n```", "fail"),
    ):
        assert passes_tests(a_trace(response=response, metadata=FUNCTION)).outcome == outcome, response
    helped = json.dumps({"asserts": ["result = f()\nassert result == 3"]})
    response = f"```python\n{good}\n```\n```python\n{usage}\n```"
    assert passes_tests(a_trace(response=response, metadata=helped)).outcome == "pass"


@pytest.mark.parametrize(
    ("asserts", "evidence"),
    [
        (["assert f() == 3", "assert f() is not None"], "2 tests"),
        (["assert f() == 3", "for i in range(2):\n    assert f() > i"], "2 tests, 1 inside the program"),
        (["assert f() == f()", "assert 2 < f() < 4", "x = f()\nassert x"], "3 tests, 2 inside the program"),
    ],
)
def test_the_evidence_counts_what_only_the_program_itself_compared(asserts, evidence):
    finding = run_tests("def f():\n    return 3", json.dumps({"asserts": asserts}), **LIMITS)
    assert finding.evidence == evidence


@pytest.mark.parametrize(
    "reply",
    ["<1E+999999999>", "0x" + "f" * 9999, "(nan,)", "'" * 99_999, "(" * 9999, "", "None"],
    ids=lambda reply: reply[:14],
)
def test_a_hostile_reply_costs_nothing_and_holds_nowhere(reply):
    for source in ("assert abs(f() - 3) < 1", "assert f() < 3", "assert f() in 'abc'", "assert f() in [3]"):
        (asked,) = read_assert(source, 1)
        assert not asked.holds(reply)
