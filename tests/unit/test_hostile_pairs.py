"""Answers that only look right are never right, and odd ones that are right are seen to be."""

from filters.rules.correct import judge_response
from tests.fair_pairs import fair
from tests.hostile_pairs import MISSING, hostile


def test_no_pair_that_only_looks_right_is_right():
    pairs = set(hostile())
    believed = [pair for pair in pairs if judge_response(pair[2], pair[3], pair[1]).outcome == "passed"]
    assert not believed
    assert len(pairs) > 3000


def test_right_answers_stay_right_in_odd_words():
    pairs = set(fair())
    missed = [pair for pair in pairs if judge_response(pair[2], pair[3], pair[1]).outcome != "passed"]
    assert not missed
    assert len(pairs) > 600


def test_a_reference_that_says_there_is_none_makes_no_answer_wrong():
    for word in MISSING:
        for kind in ("math", "number", "text", "choice", "yes_no"):
            for response in ("5", "Paris", r"\boxed{5}", "The answer is 7."):
                assert judge_response(word, response, kind).outcome == "undecided", (word, kind, response)
    for word in ("None", "unknown"):  # these may be meant
        assert judge_response(word, f"The answer is {word.lower()}.", "text").outcome == "passed"
