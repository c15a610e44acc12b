from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.select import Select
from pipeline.inspect.run import open_run
from pipeline.rows import Trace, Verdict
from pipeline.select.pairs import is_usable, rejected_for
from tests.unit.pipeline.select.test_mix import run_select
from tests.unit.pipeline.select.test_stage import trace


def graded(sample: int, outcome: str, *others: str, **changes: Any) -> Trace:
    verdicts = [Verdict(filter="correct", version=1, outcome=outcome, reason="")]  # type: ignore[arg-type]
    verdicts += [Verdict(filter="length", version=1, outcome=o, reason="") for o in others]  # type: ignore[arg-type]
    return trace("a", sample, f"r{sample}").model_copy(update={"verdicts": tuple(verdicts)} | changes)


@pytest.mark.parametrize(
    ("given", "usable"),
    [
        (graded(0, "failed", "passed"), True),
        (graded(0, "passed", "passed"), False),
        (graded(0, "undecided", "passed"), False),
        (graded(0, "failed", "failed"), False),
        (graded(0, "failed", "undecided"), False),
        (graded(0, "failed", finish_reason="length"), False),
        (graded(0, "failed", response=" "), False),
        (graded(0, "failed", reasoning=None), False),
        (trace("a", 0), False),
    ],
)
def test_only_a_finished_trace_that_is_incorrect_and_nothing_else_is_rejected(
    given: Trace, usable: bool
) -> None:
    assert is_usable(given, reasoning=True) == usable


def test_no_kept_trace_is_rejected_although_it_is_incorrect() -> None:
    kept = graded(0, "failed").model_copy(update={"outcome": "kept"})  # with filter.ignored = ["correct"]
    assert rejected_for([kept], [kept], False, Select(rejected=True), Counter(), {"correct"}) == [None]


def test_a_rule_that_does_not_decide_rejects_no_pair() -> None:
    assert is_usable(graded(0, "failed", "failed"), reasoning=True, ignored={"length"})


def test_rejected_traces_are_used_in_turn() -> None:
    select, counts = Select(rejected=True), Counter[str]()
    right, wrong = [graded(n, "passed") for n in range(3)], [graded(n, "failed") for n in (3, 4)]
    found = rejected_for(right, [*right, *wrong], False, select, counts)
    assert [t.sample for t in found if t] == [3, 4, 3]
    assert counts == {"incorrect": 2}
    assert rejected_for(right, right, False, select, counts) == [None] * 3
    assert rejected_for(right, [*right, *wrong], False, Select(), counts) == [None] * 3
    (plain, *_) = rejected_for(right[:1], wrong, True, select, counts)
    assert plain is not None
    assert plain.reasoning is None


def test_only_pairs_that_are_stored_are_counted(tmp_path: Path) -> None:
    examples = run_select(tmp_path, kept=1, rejected=True, max_examples=2, validation=0)
    report = open_run(tmp_path / "run").report("select")
    stored = sum(example.rejected is not None for example in examples)
    assert (report["pairs"], report["incorrect_used"]) == (stored, 2) == (2, 2)


def test_select_stores_an_incorrect_trace_next_to_each_example(tmp_path: Path) -> None:
    examples = run_select(tmp_path, kept=1, rejected=True)
    assert {e.rejected.endswith("The answer is -1.") for e in examples if e.rejected} == {True}
    assert all(e.rejected and e.rejected.startswith("<think>\n") for e in examples)
    report = open_run(tmp_path / "run").report("select")
    assert (report["pairs"], report["incorrect"]) == (len(examples), 2 * len(examples))
    assert {e.rejected for e in run_select(tmp_path / "without", kept=1)} == {None}
