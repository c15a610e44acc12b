"""Which block of a response is the program, and which names in assertions come from it."""

import json

import pytest

from filters.sandbox.asserts import read_assertions, setup_for_program, without_stubs
from filters.sandbox.python_tests import last_block, passes_tests, run_tests
from tests.unit.filters.test_table import a_trace

LIMITS = {"seconds": 1.0, "memory_mb": 256}
FUNCTION = json.dumps({"asserts": ["assert f() == 3"]})


def test_a_code_block_may_be_in_a_list_item():
    for response in (
        "1. Code:\n\n   ```python\n   def f():\n       return 3\n   ```\n",
        "1. Code:\n   - so\n\n     ```python\n     def f():\n\n         return 3\n     ```\n",
        "- ```python\n  def f():\n      return 3\n  ```\n",
        "\t```python\n\tdef f():\n\t    return 3\n\t```\n",
        "    ```python\ndef f():\n    return 3\n    ```\n",
    ):
        assert run_tests(last_block(response), FUNCTION, **LIMITS).outcome == "passed", response


def test_a_fence_within_a_line_or_deeply_indented_opens_no_block():
    text = "def f():\n    '''\n    ```\n    f()\n    ```\n    '''\n"
    assert last_block(f"Call ```f()``` as in\n```python\n{text}```\n") == text
    assert last_block("```f()```\nand\n```g()```\n") is None


def test_the_block_that_defines_what_the_assertions_use_is_graded():
    good, usage = "def f():\n    return 3", "result = f()\nprint(result)"
    for response, outcome in (
        (f"```python\n{good}\n```\nExample usage:\n```python\n{usage}\n```", "passed"),
        ("```python\nf = lambda: 3\n```\nor\n```python\nassert f() == 3\n```", "passed"),
        (f"```python\n{good}\n```\nBetter:\n```python\n{good}4\n```", "failed"),
        (f"```python\n{good}\n```\nBetter:\n```python\ndef f(:\n```", "failed"),
        (f"```python\n{usage}\n```", "failed"),
    ):
        assert passes_tests(a_trace(response=response, metadata=FUNCTION)).outcome == outcome, response
    helped = json.dumps({"asserts": ["result = f()\nassert result == 3"]})
    response = f"```python\n{good}\n```\n```python\n{usage}\n```"
    assert passes_tests(a_trace(response=response, metadata=helped)).outcome == "passed"


@pytest.mark.parametrize(
    ("sources", "setup", "names", "modules"),
    [
        (["assert f(1) == g(2)"], "", {"f", "g"}, set()),
        (["assert abs(f(1) - 2.5) < 1e-6"], "", {"f"}, set()),
        (["assert isclose(f(1), 2.5)"], "", {"f"}, {("isclose", "math")}),
        (["assert math.isclose(f(1), 2.5)"], "", {"f"}, {("math", "math")}),
        (["assert Counter(f('aab')) == Counter('aba')"], "", {"f"}, {("Counter", "collections")}),
        (
            ["c = Counter()\nc.increment()", "assert c.value == 1"],
            "",
            {"Counter"},
            {("Counter", "collections")},
        ),
        (["assert sum(10, 15) == 6"], "", {"sum"}, set()),
        (["assert bisect([1, 2], 1) == 0"], "", {"bisect"}, set()),
        (["assert same(f(1), 2)"], "def same(a, b):\n    return a == b", {"f"}, set()),
        (["x = f(1)", "assert x == [y for y in x]"], "", {"f"}, set()),
        (["assert apply(lambda g: g(f), f) == 1"], "def apply(f, g):\n    return f(g)", {"f"}, set()),
        (["check()"], "def check():\n    assert f(1) == 2", {"f"}, set()),
        (["try:\n    f(1)\nexcept Bad as e:\n    assert e"], "", {"f", "Bad"}, set()),
    ],
)
def test_the_assertions_alone_decide_which_names_come_from_the_program(sources, setup, names, modules):
    read = read_assertions(sources, setup)
    assert (set(read.names), set(read.modules)) == (names, modules)


def test_only_functions_without_a_body_are_removed_from_a_setup():
    setup = "import math\ndef f(x):\n    '''Add one.'''\n    ...\ndef g(x):\n    return x"
    assert "def f" not in without_stubs(setup)
    assert "def g" in without_stubs(setup)
    assert without_stubs("def g(x):  # as it is\n    return x") == "def g(x):  # as it is\n    return x"


def test_every_kind_of_assertion_runs_outside_the_program():
    asserts = ["assert f() == f()", "assert 2 < f() < 4", "x = f()\nassert x", "assert f() == sum([1, 2])"]
    result = run_tests("def f():\n    return 3", json.dumps({"asserts": asserts}), **LIMITS)
    assert result.evidence == "4 tests"


SETUP = """
import math
LIMIT = 7
CASES = [(1, 2)]
class Node:
    def __init__(self, value):
        self.value = value
class Cases:
    def run(self):
        self.assertEqual(f(1), 2)
def build(values):
    return Node(values[0]) if len(values) > 0 else None
def check(candidate):
    for given, expected in CASES:
        assert candidate(given) == expected
def verify(found):
    return found == [4, 5]
def every():
    return verify(f(1))
FIRST = CASES[0]
"""


def test_code_that_may_reveal_expected_values_stays_out_of_the_process_of_the_program():
    asserts = ["check(f)", "assert every()", "assert f(build([1])) == 3", "Cases().run()"]
    left = setup_for_program(read_assertions(asserts, SETUP))
    for name in ("math", "LIMIT", "class Node", "def build"):
        assert name in left
    for name in ("CASES", "FIRST", "class Cases", "check", "verify", "every", "4"):
        assert name not in left
    assert setup_for_program(read_assertions(["assert f(1) == 2"], SETUP)) == SETUP
