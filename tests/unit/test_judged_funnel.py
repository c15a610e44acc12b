"""A rule that lets nearly nothing pass stops the run, and says what it does."""

import pytest

from pipeline.errors import UserError
from pipeline.filter.funnel import Funnel, Rule
from pipeline.filter.stage import _warn


def funnel(fails: int, unknown: int, traces: int = 100) -> Funnel:
    return Funnel(
        traces=traces,
        kept=traces - fails - unknown,
        rejected={"sure: unsure_thought": fails} if fails else {},
        unknown={"sure: no_logprobs": unknown} if unknown else {},
        rules={"sure": Rule(fails=fails, alone=fails, unknown=unknown)},
    )


@pytest.mark.parametrize(
    ("fails", "unknown", "words"),
    [
        (99, 0, r"rejects 99 of 100 traces \(sure: unsure_thought\)"),
        (0, 100, r"cannot tell of 100 of 100 traces \(sure: no_logprobs\)"),
        (9, 90, r"cannot tell of 90 and rejects 9 of 100 traces \(sure: no_logprobs\)"),
    ],
)
def test_a_rule_that_stops_nearly_all_is_named_with_what_it_does(fails, unknown, words):
    with pytest.raises(UserError, match=words):
        _warn(funnel(fails, unknown), 0.98)
    _warn(funnel(fails, unknown), 1)


def test_many_are_not_nearly_all_and_of_few_nothing_can_be_said():
    _warn(funnel(49, 49), 0.98)
    _warn(funnel(0, 40, traces=40), 0.98)
