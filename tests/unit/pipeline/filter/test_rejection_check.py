"""A rule that stops nearly all traces ends the run."""

import pytest

from pipeline.errors import UserError
from pipeline.filter.funnel import Funnel, Rule
from pipeline.filter.stage import check_rejections


def funnel(failed: int, undecided: int, traces: int = 100) -> Funnel:
    return Funnel(
        traces=traces,
        kept=traces - failed - undecided,
        rejected={"sure: unsure_reasoning": failed} if failed else {},
        undecided={"sure: no_logprobs": undecided} if undecided else {},
        rules={"sure": Rule(failed=failed, failed_alone=failed, undecided=undecided)},
    )


@pytest.mark.parametrize(
    ("failed", "undecided", "words"),
    [
        (99, 0, r"rejects 99 of 100 traces \(sure: unsure_reasoning\)"),
        (0, 100, r"leaves undecided 100 of 100 traces \(sure: no_logprobs\)"),
        (9, 90, r"leaves undecided 90 and rejects 9 of 100 traces \(sure: no_logprobs\)"),
    ],
)
def test_a_rule_that_stops_nearly_all_traces_is_named(failed, undecided, words):
    with pytest.raises(UserError, match=words):
        check_rejections(funnel(failed, undecided), 0.98)
    check_rejections(funnel(failed, undecided), 1)


def test_rejecting_many_traces_or_a_small_sample_is_allowed():
    check_rejections(funnel(49, 49), 0.98)
    check_rejections(funnel(0, 40, traces=40), 0.98)
