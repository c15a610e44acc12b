"""Votes over the samples of a problem, and its pass rate."""

import json
from pathlib import Path

import pytest

from filters.dataset.difficulty import difficulty
from filters.dataset.majority import majority
from filters.policy import Policy
from pipeline.config.traces import Filter, Majority
from pipeline.filter.apply import FilterContext, _on_problem
from pipeline.rows import Verdict
from tests.unit.test_filters import a_trace

CASES = [json.loads(line) for line in Path("tests/cases/majority.jsonl").read_text("utf-8").splitlines()]
OUTCOMES = {"p": "passed", "f": "failed", "u": "unknown"}


def samples(answers, **changes):
    responses = ("" if answer is None else f"The answer is \\boxed{{{answer}}}." for answer in answers)
    return [a_trace(reference=None, response=response, **changes) for response in responses]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_what_most_samples_answer_is_kept_above_a_margin(case):
    findings = majority(samples(case["answers"]), **case["settings"])
    assert [finding.outcome for finding in findings] == [OUTCOMES[letter] for letter in case["outcomes"]]
    if case["evidence"]:
        assert findings[0].evidence.split(": ")[0] == case["evidence"]


def test_the_evidence_holds_the_answer_and_the_reason_says_why_not():
    right, *_, wrong, silent = majority(samples(["7", "7", "7", "7", "8", None]))
    assert right.evidence == "majority 4/5, margin 0.60, entropy 0.50 nats: 7"
    assert (wrong.reason, wrong.evidence[-3:]) == ("minority", ": 8")
    assert silent.reason == "no_answer"


def test_a_trace_that_was_cut_off_does_not_vote():
    cut = samples(["7"] * 4, finish_reason="length")
    assert {finding.reason for finding in majority(cut)} == {"few_votes"}


def test_an_answer_that_equals_two_others_joins_them():
    findings = majority(samples([r"\sqrt{4}", "2", "2.0", r"\frac{4}{2}", "2"]))
    assert {finding.outcome for finding in findings} == {"passed"}


def test_text_answers_are_counted_by_their_words():
    traces = [
        a_trace(answer_type="text", reference=None, response=response)
        for response in ("The answer is Paris.", "Paris", "paris", "The answer is **Paris**", "Rome")
    ]
    assert [finding.outcome for finding in majority(traces)] == ["passed"] * 4 + ["failed"]


@pytest.mark.parametrize(
    ("kind", "responses", "outcomes"),
    [
        (
            "choice",
            ["B. Because x is the bigger one.", "The right option is B.", "B", "\\boxed{B}", "C"],
            "ppppf",
        ),
        (
            "yes_no",
            ["Yes, it is prime.", "Yes, since 7 has no factors.", "The answer is yes.", "ja", "No."],
            "ppppf",
        ),
        (
            "json",
            ['```json\n{"a": 1, "b": 2}\n```', '{"b": 2, "a": 1.0}', 'So {"a": 1,"b":2}', "[1]"] * 2,
            "pppfpppf",
        ),
        ("json", ['{"a": 1} or {"a": 2}'] * 5, "uuuuu"),
        ("json", ['{"a": "-"}', '{"a": "\u2212"}'] * 3, "uuuuuu"),
        ("text", ["Paris", "paris", "The answer is Paris.", "Paris.", "unknown"], "ppppf"),
        ("yes_no", ["It is unclear."] * 5, "uuuuu"),
    ],
)
def test_answers_are_read_as_they_are_where_there_is_a_reference(kind, responses, outcomes):
    traces = [a_trace(answer_type=kind, reference=None, response=response) for response in responses]
    found = [finding.outcome for finding in majority(traces, margin=0.3)]
    assert found == [OUTCOMES[letter] for letter in outcomes]


def test_the_policy_of_the_reading_holds_for_the_votes():
    traces = samples(["0.33", "1/3", "0.33", "1/3"])
    assert {finding.reason for finding in majority(traces)} == {"no_majority"}
    assert {finding.outcome for finding in majority(traces, policy=Policy(rounding_digits=2))} == {"passed"}
    texts = [a_trace(answer_type="text", reference=None, response=text) for text in ("pH", "PH") * 2]
    assert {finding.outcome for finding in majority(texts)} == {"passed"}
    strict = majority(texts, policy=Policy(case_sensitive=True))
    assert {finding.reason for finding in strict} == {"no_majority"}


def on_problem(traces, **settings):
    rows = list(_on_problem(FilterContext(Filter(majority=Majority(), **settings)), traces, {}))
    return [{verdict.filter: verdict.outcome for verdict in verdicts} for verdicts in rows]


def test_what_has_a_scorer_or_tests_is_never_judged_by_a_vote():
    entry = {"question": "?", "answer": None, "metadata": {}, "task": "graph_color", "settings": {}}
    for kind, metadata in (("reasoning_gym", json.dumps(entry)), ("python", '{"asserts": ["assert False"]}')):
        traces = samples(["7"] * 4, answer_type=kind, metadata=metadata)
        for verdicts in on_problem(traces):
            assert "majority" not in verdicts
            assert verdicts["correct"] != "passed"


def test_the_vote_takes_the_policy_of_the_rule_correct():
    traces = samples(["0.33", "1/3", "0.33", "1/3"])
    for given, outcome in (({}, "undecided"), ({"rounding_digits": 2, "timeout": 1}, "passed")):
        for verdicts in on_problem(traces, rules={"correct": given}):
            assert verdicts == {"majority": outcome}


def test_no_samples_give_no_findings():
    assert majority([]) == []
    assert difficulty([]) == []


def judged(letters):
    verdict = Verdict(filter="correct", version=1, outcome="passed", reason="")
    other = Verdict(filter="finished", version=1, outcome="passed", reason="")
    return [
        a_trace(verdicts=(other, verdict.model_copy(update={"outcome": OUTCOMES[letter]})))
        for letter in letters
    ]


@pytest.mark.parametrize(
    ("letters", "settings", "outcome", "reason", "evidence"),
    [
        ("pfff", {}, "passed", "", "1/4 right, 0 unknown"),
        ("pppp", {}, "failed", "too_easy", "4/4 right, 0 unknown"),
        ("ffff", {}, "failed", "too_hard", "0/4 right, 0 unknown"),
        ("ffff", {"low": 0.0}, "passed", "", "0/4 right, 0 unknown"),
        ("pffuu", {"high": 0.3}, "failed", "too_easy", "1/3 right, 2 unknown"),
        ("pffuu", {"high": 0.34}, "passed", "", "1/3 right, 2 unknown"),
        ("pfff", {"low": 0.25, "high": 0.25}, "passed", "", "1/4 right, 0 unknown"),
        ("puuu", {}, "unknown", "few_judged", "1/1 right, 3 unknown"),
        ("uuuu", {}, "unknown", "few_judged", "0/0 right, 4 unknown"),
        ("pf", {"rule": "majority"}, "unknown", "few_judged", "0/0 right, 2 unknown"),
    ],
)
def test_a_problem_is_kept_when_its_pass_rate_lies_in_the_band(letters, settings, outcome, reason, evidence):
    findings = difficulty(judged(letters), **settings)
    assert {finding[:3] for finding in findings} == {(outcome, reason, evidence)}
    assert len(findings) == len(letters)
