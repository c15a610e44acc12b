"""Answers that only look correct are never correct, and correct answers in unusual words are."""

from filters.rules.correct import grade_response
from tests.fair_pairs import fair
from tests.hostile_pairs import MISSING, hostile


def test_no_answer_that_only_looks_correct_is_correct():
    pairs = set(hostile())
    accepted = [pair for pair in pairs if grade_response(pair[2], pair[3], pair[1]).outcome == "passed"]
    assert not accepted
    assert len(pairs) > 3000


def test_correct_answers_stay_correct_in_unusual_words():
    pairs = set(fair())
    missed = [pair for pair in pairs if grade_response(pair[2], pair[3], pair[1]).outcome != "passed"]
    assert not missed
    assert len(pairs) > 600


def test_no_answer_is_incorrect_if_the_reference_is_missing():
    for word in MISSING:
        for kind in ("math", "number", "text", "choice", "yes_no"):
            for response in ("5", "Paris", r"\boxed{5}", "The answer is 7."):
                assert grade_response(word, response, kind).outcome == "undecided", (word, kind, response)
    for word in ("None", "unknown"):  # these may be meant
        assert grade_response(word, f"The answer is {word.lower()}.", "text").outcome == "passed"
