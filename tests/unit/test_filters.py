"""The filters on golden cases, the judgement over several rules, and the check of rules."""

import json
from pathlib import Path

import pytest

import filters
from filters import FILTERS, Filter, check_rules, judge
from filters.result import EVIDENCE_LIMIT, passed
from pipeline.errors import Stopped, UserError
from pipeline.rows import Sampling, Trace

CASES = [json.loads(line) for line in Path("tests/cases/filters.jsonl").read_text("utf-8").splitlines()]
ALL = {"finished": {}, "single_reasoning": {}, "final_answer": {}, "correct": {}}


def a_trace(**changes):
    """A trace that passes every filter, but for the changes."""
    right = {
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
    return Trace(**(right | changes))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['filter']}-{case['trace']}"[:60])
def test_a_filter_passes_what_it_must_and_refuses_the_near_miss(case):
    trace = a_trace().model_copy(update=case["trace"])
    (verdict,) = judge(trace, {case["filter"]: case.get("parameters", {})}).verdicts
    assert (verdict.outcome, verdict.reason) == (case["outcome"], case["reason"])


def test_every_filter_has_cases_of_both_kinds():
    for name in FILTERS:
        assert {"passed", "failed"} <= {c["outcome"] for c in CASES if c["filter"] == name}, name


def test_a_trace_is_kept_when_all_pass_and_every_filter_runs_on_every_trace():
    assert judge(a_trace(), ALL).outcome == "kept"
    rejected = judge(a_trace(finish_reason="length", response="The answer is 8."), ALL)
    assert rejected.outcome == "rejected"
    assert [(v.filter, v.outcome) for v in rejected.verdicts] == [
        ("finished", "failed"),
        ("single_reasoning", "passed"),
        ("final_answer", "passed"),
        ("correct", "failed"),
    ]


def test_not_knowing_keeps_nothing_but_does_not_outweigh_a_failure():
    assert judge(a_trace(reference=None), ALL).outcome == "undecided"
    assert judge(a_trace(reference=None, finish_reason="length"), ALL).outcome == "rejected"


def test_the_extracted_answer_is_the_evidence_and_is_bounded():
    verdict = judge(a_trace(), {"correct": {}}).verdicts[0]
    assert verdict.evidence == "7"
    verdict = judge(a_trace(response="The answer is " + "9" * 5000), {"correct": {}}).verdicts[0]
    assert verdict.outcome == "undecided"
    assert len(verdict.evidence) <= EVIDENCE_LIMIT


def test_a_filter_that_raises_cannot_tell(monkeypatch):
    monkeypatch.setitem(filters.FILTERS, "broken", Filter(lambda trace: 1 / 0, 3))
    judged = judge(a_trace(), {"broken": {}})
    assert judged.outcome == "undecided"
    assert judged.verdicts[0].reason == "raised"
    assert judged.verdicts[0].evidence == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), MemoryError()])
def test_what_this_machine_has_no_room_for_stops_the_work_and_is_no_verdict(monkeypatch, error):
    def refused(trace):
        raise error

    monkeypatch.setitem(filters.FILTERS, "broken", Filter(refused, 3))
    with pytest.raises(Stopped, match=r"broken on trace .*(Too many open files|not enough memory)"):
        judge(a_trace(), {"broken": {}})


def _typed(trace, *, least: int = 1, word: str = "a"):
    return passed(word * least)


def test_rules_that_fit_their_filters_are_accepted(monkeypatch):
    monkeypatch.setitem(filters.FILTERS, "typed", Filter(_typed, 1))
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
            "filter.rules.correct.timeout: Input should be a valid number (found '3')",
        ),
        (
            {"correct": {"timeout": 0}},
            "filter.rules.correct.timeout: Input should be greater than 0 (found 0)",
        ),
        (
            {"correct": {"timeout": float("inf")}},
            "filter.rules.correct.timeout: Input should be less than or equal to 3600 (found inf)",
        ),
        (
            {"length": {"min_thought": 100, "max_thought": 10}},
            "filter.rules.length: min_thought = 100 is more than max_thought = 10",
        ),
        (
            {"length": {"min_answer": 9000}},
            "filter.rules.length: min_answer = 9000 is more than max_answer = 8192",
        ),
    ],
)
def test_a_mistake_in_the_rules_is_told_in_one_line(rules, message):
    with pytest.raises(UserError) as error:
        check_rules(rules)
    assert str(error.value) == message
