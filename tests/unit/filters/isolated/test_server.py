"""The scorers of reasoning-gym, and the text refused to those that evaluate it."""

import inspect
import json
import re

import pytest

from filters.grade.grader import grade_answer
from filters.isolated.server import EVAL_TASKS, PARSE_EXPR_TASKS, is_harmless


def an_entry(task, **settings):
    """Reference and metadata of a task's first problem."""
    import reasoning_gym

    entry = reasoning_gym.create_dataset(task, size=1, seed=1, **settings)[0]
    return entry["answer"], json.dumps({"task": task, "settings": settings, **entry})


def gym(task, answer, **settings):
    reference, metadata = an_entry(task, **settings)
    return grade_answer(reference, answer, "reasoning_gym", metadata)


def test_the_tasks_own_scorer_decides():
    reference, _ = an_entry("chain_sum")
    assert gym("chain_sum", reference).outcome == "passed"
    assert gym("chain_sum", f" ${reference}$. ").outcome == "passed"
    assert gym("chain_sum", f"{reference}1").reason == "incorrect"


def test_another_answer_that_the_scorer_accepts_is_correct():
    reference, _ = an_entry("polynomial_multiplication")
    assert gym("polynomial_multiplication", f"0 + {reference}").outcome == "passed"
    assert gym("polynomial_multiplication", f"1 + {reference}").reason == "incorrect"


def test_a_formula_may_end_its_sentence():
    reference, _ = an_entry("countdown")
    assert gym("countdown", f"0 + {reference}.").reason == "incorrect"
    assert gym("countdown", f"({reference}).").outcome == "passed"


def test_a_scorer_is_built_with_the_settings_of_its_problems():
    assert gym("puzzle24", "10 + 10 + 2 + 2").outcome == "passed"
    assert gym("puzzle24", "10 + 10 + 2 + 2", max_value=9).reason == "incorrect"


def test_partial_credit_is_not_correct():
    reference, _ = an_entry("spiral_matrix")
    assert gym("spiral_matrix", str(reference.split())).reason == "incorrect"


def test_without_its_entry_an_answer_cannot_be_scored():
    assert grade_answer("7", "8", "reasoning_gym", None).reason == "no_reference"


@pytest.mark.parametrize("task", sorted(EVAL_TASKS | PARSE_EXPR_TASKS))
def test_code_in_an_answer_does_not_run(task, tmp_path):
    mark = tmp_path / "mark"
    for code in (f"__import__('os').system('touch {mark}')", f" [open('{mark}', 'w') for _ in '1']"):
        result = gym(task, code)
        assert (result.outcome, result.reason) == ("undecided", "refused")
    assert not mark.exists()


@pytest.mark.parametrize(
    "answer",
    [
        "eval('1')",
        "S('1')",
        "sin('1')",
        "x + 'a'",
        "x.func",
        "x[0]",
        "(lambda: 1)()",
        "f'{x}'",
        "[x for x in y]",
        "__class__",
        "ｅval(1)",  # noqa: RUF001 - Python reads it as eval
        "9**9**9",
        "2**1000",
        "1<<99",
        "x" * 3000,
        "(" * 500,
        "3 * 4 = 12",  # not a formula: SymPy would rewrite it before it evaluates it
        "5!",
    ],
)
def test_a_scorer_that_evaluates_formulas_gets_only_plain_ones(answer):
    assert not is_harmless("countdown", answer)


@pytest.mark.parametrize(
    "answer", ["3*(4+5)/6 - 1.5", "-x**2/2 + C", "log(x)*exp(2*x) + sqrt(pi)", "12*x**10*y**(-2)"]
)
def test_a_plain_formula_reaches_the_scorer(answer):
    assert is_harmless("simple_integration", answer)


@pytest.mark.parametrize(
    ("answer", "let_through"),
    [
        ("1 2 3\n4 5 6", True),
        ("[[1, 2], [3, -4]]", True),
        ("['a', 'b']", True),
        ("ABC", True),
        ("f()", False),
        ("[x.y]", False),
    ],
)
def test_a_scorer_that_evaluates_lists_gets_text_or_plain_lists(answer, let_through):
    assert is_harmless("spiral_matrix", answer) is let_through


def test_nan_is_not_offered_to_a_scorer_as_a_number():
    assert not is_harmless("complex_arithmetic", " NaN ")


def test_no_other_scorer_of_the_installed_reasoning_gym_evaluates_its_answer():
    from reasoning_gym.factory import DATASETS

    found = set()
    for task, (dataset, _) in DATASETS.items():
        source = inspect.getsource(dataset.score_answer)
        if re.search(r"\b(?:eval|exec|parse_expr|sympify)\((?!entry|problem)", source):
            found.add(task)
    assert found == EVAL_TASKS | PARSE_EXPR_TASKS
