"""The filters on golden cases, the outcome of several rules, and the validation of rules."""

import json
from pathlib import Path

import pytest

from filters.result import EVIDENCE_LIMIT, passed
from filters.table import FILTERS, FilterSpec, apply_rules, check_rules
from pipeline.errors import Stopped, UserError
from pipeline.rows import Sampling, Trace

CASES = [json.loads(line) for line in Path("tests/cases/filters.jsonl").read_text("utf-8").splitlines()]
ALL = {"finished": {}, "single_reasoning": {}, "final_answer": {}, "correct": {}}


def a_trace(**changes):
    """A trace that passes every filter, with some fields changed."""
    passing = {
        "id": "p-0",
        "problem_id": "p",
        "sample": 0,
        "teacher": "t",
        "prompt": "plain",
        "prompt_hash": "h",
        "question": "Four apples and three apples?",
        "reference": "7",
        "answer_type": "math",
        "source": "s",
        "sampling": Sampling(temperature=0.6, top_p=0.95, max_tokens=100),
        "seed": 1,
        "reasoning": "Four and three are seven.",
        "response": "The answer is 7.",
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "completion_tokens": 10,
    }
    return Trace(**(passing | changes))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['filter']}-{case['trace']}"[:60])
def test_a_filter_passes_good_traces_and_fails_near_misses(case):
    trace = a_trace().model_copy(update=case["trace"])
    (verdict,) = apply_rules(trace, {case["filter"]: case.get("parameters", {})}).verdicts
    assert (verdict.outcome, verdict.reason) == (case["outcome"], case["reason"])


def test_every_filter_has_cases_of_both_kinds():
    for name in FILTERS:
        assert {"passed", "failed"} <= {c["outcome"] for c in CASES if c["filter"] == name}, name


def test_a_trace_is_kept_if_all_filters_pass_and_all_of_them_run():
    assert apply_rules(a_trace(), ALL).outcome == "kept"
    rejected = apply_rules(a_trace(finish_reason="length", response="The answer is 8."), ALL)
    assert rejected.outcome == "rejected"
    assert [(v.filter, v.outcome) for v in rejected.verdicts] == [
        ("finished", "failed"),
        ("single_reasoning", "passed"),
        ("final_answer", "passed"),
        ("correct", "failed"),
    ]


def test_undecided_does_not_outweigh_a_failure():
    assert apply_rules(a_trace(reference=None), ALL).outcome == "undecided"
    assert apply_rules(a_trace(reference=None, finish_reason="length"), ALL).outcome == "rejected"


def test_the_evidence_is_the_extracted_answer_and_bounded():
    verdict = apply_rules(a_trace(), {"correct": {}}).verdicts[0]
    assert verdict.evidence == "7"
    verdict = apply_rules(a_trace(response="The answer is " + "9" * 5000), {"correct": {}}).verdicts[0]
    assert verdict.outcome == "undecided"
    assert len(verdict.evidence) <= EVIDENCE_LIMIT


def test_a_filter_that_raises_leaves_the_trace_undecided(monkeypatch):
    monkeypatch.setitem(FILTERS, "broken", FilterSpec(lambda trace: 1 / 0, 3))
    trace = apply_rules(a_trace(), {"broken": {}})
    assert trace.outcome == "undecided"
    assert trace.verdicts[0].reason == "raised"
    assert trace.verdicts[0].evidence == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
def test_a_lack_of_resources_stops_the_work_and_is_no_verdict(monkeypatch, error):
    def refused(trace):
        raise error

    monkeypatch.setitem(FILTERS, "broken", FilterSpec(refused, 3))
    with pytest.raises(Stopped, match=r"broken on trace .*(Too many open files|not enough memory)"):
        apply_rules(a_trace(), {"broken": {}})


def _typed(trace, *, least: int = 1, word: str = "a"):
    return passed(word * least)


def test_valid_rules_are_accepted(monkeypatch):
    monkeypatch.setitem(FILTERS, "typed", FilterSpec(_typed, 1))
    check_rules(ALL | {"correct": {"timeout": 3}, "typed": {"least": 2, "word": "b"}})


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"finishd": {}}, "filter.rules: unknown filter 'finishd'; did you mean 'finished'?"),
        (
            {"zzz": {}},
            f"filter.rules: unknown filter 'zzz'; known: {', '.join(sorted(FILTERS))}",
        ),
        (
            {"correct": {"timout": 3}},
            "filter.rules.correct: unknown parameter 'timout'; did you mean 'timeout'?",
        ),
        ({"finished": {"x": 1}}, "filter.rules.finished: unknown parameter 'x'; none is known"),
        (
            {"correct": {"timeout": "3"}},
            "filter.rules.correct.timeout: must be a valid number (found '3')",
        ),
        (
            {"correct": {"timeout": 0}},
            "filter.rules.correct.timeout: must be greater than 0 (found 0)",
        ),
        (
            {"correct": {"timeout": float("inf")}},
            "filter.rules.correct.timeout: must be less than or equal to 3600 (found inf)",
        ),
        (
            {"length": {"min_reasoning": 100, "max_reasoning": 10}},
            "filter.rules.length: min_reasoning = 100 is more than max_reasoning = 10",
        ),
        (
            {"length": {"min_response": 9000}},
            "filter.rules.length: min_response = 9000 is more than max_response = 8192",
        ),
    ],
)
def test_a_mistake_in_the_rules_is_reported_in_one_line(rules, message):
    with pytest.raises(UserError) as error:
        check_rules(rules)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("kind", "response", "outcome"),
    [
        ("choice", "The correct option is C", "passed"),
        ("choice", "Therefore, option **C** is the correct choice.", "passed"),
        ("choice", "Hence the correct option is **C**. Option B is too small.", "passed"),
        ("choice", "Options B and C are both plausible.", "failed"),
        ("yes_no", "Yes, there exists such a number.", "passed"),
        ("yes_no", "Perhaps there is one.", "failed"),
    ],
)
def test_an_option_named_in_words_is_a_final_answer(kind, response, outcome):
    trace = a_trace(answer_type=kind, reference={"choice": "C", "yes_no": "yes"}[kind], response=response)
    (verdict,) = apply_rules(trace, {"final_answer": {}}).verdicts
    assert verdict.outcome == outcome
