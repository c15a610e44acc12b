"""Majority vote and pass rate of a problem's samples."""

import json
from pathlib import Path

import pytest

from filters.dataset.difficulty import difficulty
from filters.dataset.majority import majority, vote
from filters.policy import Policy
from pipeline.config.filters import Filter, Majority
from pipeline.filter.apply import FilterContext, verdicts_on_problem
from pipeline.rows import Verdict
from tests.unit.filters.test_table import a_trace

CASES = [json.loads(line) for line in Path("tests/cases/majority.jsonl").read_text("utf-8").splitlines()]
OUTCOMES = {"p": "passed", "f": "failed", "u": "undecided"}


def samples(answers, **changes):
    responses = ("" if answer is None else f"The answer is \\boxed{{{answer}}}." for answer in answers)
    return [a_trace(reference=None, response=response, **changes) for response in responses]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_answer_of_most_samples_passes_above_a_margin(case):
    results = majority(samples(case["answers"]), **case["settings"])
    assert [result.outcome for result in results] == [OUTCOMES[letter] for letter in case["outcomes"]]
    if case["evidence"]:
        assert results[0].evidence.split(": ")[0] == case["evidence"]


def test_evidence_and_reason_explain_the_vote():
    winner, *_, minority, silent = majority(samples(["7", "7", "7", "7", "8", None]))
    assert winner.evidence == "majority 4/5, margin 0.60, entropy 0.50 nats: 7"
    assert (minority.reason, minority.evidence[-3:]) == ("minority", ": 8")
    assert silent.reason == "no_answer"


def test_a_truncated_trace_does_not_vote():
    truncated = samples(["7"] * 4, finish_reason="length")
    assert {result.reason for result in majority(truncated)} == {"few_votes"}


@pytest.mark.parametrize(
    "response",
    [
        r"It is not \boxed{5}.",
        r"-\boxed{5}",
        r"2\boxed{5}",
        r"\boxed{5} is wrong.",
        "I doubt that the answer is 5.",
    ],
)
def test_an_answer_that_its_context_denies_or_changes_is_no_vote(response):
    results = majority([a_trace(id=str(n), reference=None, response=response) for n in range(4)])
    assert {result.reason for result in results} == {"few_votes"}


def test_an_answer_equal_to_two_others_joins_their_classes():
    results = majority(samples([r"\sqrt{4}", "2", "2.0", r"\frac{4}{2}", "2"]))
    assert {result.outcome for result in results} == {"passed"}


def test_text_answers_are_counted_by_their_words():
    traces = [
        a_trace(answer_type="text", reference=None, response=response)
        for response in ("The answer is Paris.", "Paris", "paris", "The answer is **Paris**", "Rome")
    ]
    assert [result.outcome for result in majority(traces)] == ["passed"] * 4 + ["failed"]


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
def test_votes_are_extracted_as_for_problems_with_a_reference(kind, responses, outcomes):
    traces = [a_trace(answer_type=kind, reference=None, response=response) for response in responses]
    found = [result.outcome for result in majority(traces, margin=0.3)]
    assert found == [OUTCOMES[letter] for letter in outcomes]


def test_the_policy_applies_to_extracting_votes():
    traces = samples(["0.33", "1/3", "0.33", "1/3"])
    assert {result.reason for result in majority(traces)} == {"no_majority"}
    assert {result.outcome for result in majority(traces, policy=Policy(rounding_digits=2))} == {"passed"}
    texts = [a_trace(answer_type="text", reference=None, response=text) for text in ("pH", "PH") * 2]
    assert {result.outcome for result in majority(texts)} == {"passed"}
    strict = majority(texts, policy=Policy(case_sensitive=True))
    assert {result.reason for result in strict} == {"no_majority"}


def on_problem(traces, **settings):
    rows = list(verdicts_on_problem(FilterContext(Filter(majority=Majority(), **settings)), traces, {}))
    return [{verdict.filter: verdict.outcome for verdict in verdicts} for verdicts in rows]


def test_problems_with_a_scorer_or_tests_are_never_graded_by_a_vote():
    entry = {"question": "?", "answer": None, "metadata": {}, "task": "graph_color", "settings": {}}
    for kind, metadata in (("reasoning_gym", json.dumps(entry)), ("python", '{"asserts": ["assert False"]}')):
        traces = samples(["7"] * 4, answer_type=kind, metadata=metadata)
        for verdicts in on_problem(traces):
            assert "majority" not in verdicts
            assert verdicts["correct"] != "passed"


def test_the_vote_uses_the_policy_of_the_rule_correct():
    traces = samples(["0.33", "1/3", "0.33", "1/3"])
    for given, outcome in (({}, "undecided"), ({"rounding_digits": 2, "timeout": 1}, "passed")):
        for verdicts in on_problem(traces, rules={"correct": given}):
            assert verdicts == {"majority": outcome}


def test_no_samples_give_no_results():
    assert majority([]) == []
    assert difficulty([]) == []


def with_outcomes(letters):
    verdict = Verdict(filter="correct", version=1, outcome="passed", reason="")
    other = Verdict(filter="finished", version=1, outcome="passed", reason="")
    return [
        a_trace(verdicts=(other, verdict.model_copy(update={"outcome": OUTCOMES[letter]})))
        for letter in letters
    ]


@pytest.mark.parametrize(
    ("letters", "settings", "outcome", "reason", "evidence"),
    [
        ("pfff", {}, "passed", "", "1/4 correct, 0 undecided"),
        ("pppp", {}, "failed", "too_easy", "4/4 correct, 0 undecided"),
        ("ffff", {}, "failed", "too_hard", "0/4 correct, 0 undecided"),
        ("ffff", {"low": 0.0}, "passed", "", "0/4 correct, 0 undecided"),
        ("pffuu", {"high": 0.3}, "failed", "too_easy", "1/3 correct, 2 undecided"),
        ("pffuu", {"high": 0.34}, "passed", "", "1/3 correct, 2 undecided"),
        ("pfff", {"low": 0.25, "high": 0.25}, "passed", "", "1/4 correct, 0 undecided"),
        ("puuu", {}, "undecided", "few_graded", "1/1 correct, 3 undecided"),
        ("uuuu", {}, "undecided", "few_graded", "0/0 correct, 4 undecided"),
        ("pf", {"rule": "majority"}, "undecided", "few_graded", "0/0 correct, 2 undecided"),
    ],
)
def test_a_problem_passes_if_its_pass_rate_lies_in_the_band(letters, settings, outcome, reason, evidence):
    results = difficulty(with_outcomes(letters), **settings)
    assert {result[:3] for result in results} == {(outcome, reason, evidence)}
    assert len(results) == len(letters)


def test_a_response_that_denies_the_other_options_votes():
    response = "Answer: C\n\nA. This is incorrect, since it is too small.\nB. This is wrong."
    assert vote(a_trace(answer_type="choice", response=response)) == "C"
