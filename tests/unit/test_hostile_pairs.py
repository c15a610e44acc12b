"""Answers that only look right are never right, and odd ones that are right are seen to be."""

from filters.correct import judge_response
from tests.hostile_pairs import fair, hostile


def test_no_pair_that_only_looks_right_is_right():
    pairs = set(hostile())
    believed = [pair for pair in pairs if judge_response(pair[2], pair[3], pair[1]).outcome == "pass"]
    assert not believed
    assert len(pairs) > 3000


def test_right_answers_stay_right_in_odd_words():
    pairs = set(fair())
    missed = [pair for pair in pairs if judge_response(pair[2], pair[3], pair[1]).outcome != "pass"]
    assert not missed
    assert len(pairs) > 600
