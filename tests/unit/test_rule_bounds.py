"""Every rule has a bound: on the text that it judges, and on the time that it computes."""

import re
from contextlib import suppress

import pytest

from filters import FILTERS, Filter, fit, limits, verdicts_on
from filters.limits import TooSlow, processor_seconds
from tests.unit.test_filters import a_trace

# What made some pass quadratic once, or might: an opening that never closes, a mark that begins two things.
REPEATED = (
    "\\\\[2pt] ",
    "\\[",
    "$",
    "`",
    "<|",
    "\ufdfa",
    "½",
    "[",
    "(B) ",
    "answer is ",
    "User: ",
    "\\boxed{",
)
SIZE = 100_000


def test_a_rule_that_computes_for_too_long_is_stopped_and_tells_nothing(monkeypatch):
    def stuck(trace):
        re.fullmatch(r"(a+)+b", "a" * 60)
        return fit()

    monkeypatch.setitem(FILTERS, "stuck", Filter(stuck, 1))
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    stopped, after = verdicts_on(a_trace(), {"stuck": {}, "finished": {}})
    assert (stopped.outcome, stopped.reason, after.outcome) == ("undecided", "too_slow", "passed")


def test_no_handler_within_a_rule_swallows_the_bound():
    def stubborn():
        while True:
            with suppress(Exception):
                sum(range(1000))

    with pytest.raises(TooSlow), processor_seconds(0.05):
        stubborn()


def test_a_text_longer_than_any_model_writes_is_not_judged():
    trace = a_trace(response="7 " * 600_000)
    rules = {name: {} for name in FILTERS if name not in ("finished", "length", "confidence")}
    assert {(v.outcome, v.reason) for v in verdicts_on(trace, rules)} == {("undecided", "too_long")}
    cut = a_trace(response="7 " * 600_000, finish_reason="length")
    assert next(verdicts_on(cut, {"finished": {}})).reason == "truncated"


@pytest.mark.parametrize("text", REPEATED[:3])
def test_no_rule_comes_near_its_bound_on_what_was_once_quadratic(text):
    _judged(text, FILTERS)


@pytest.mark.slow
@pytest.mark.parametrize("text", REPEATED[3:])
@pytest.mark.parametrize("kind", ["math", "number", "choice", "yes_no", "text", "json"])
def test_no_rule_comes_near_its_bound(text, kind):
    _judged(text, FILTERS, kind)


def _judged(text, rules, kind="math"):
    """Quadratic work on so much text takes many times the bound."""
    text = text * (SIZE // len(text))
    trace = a_trace(reasoning=text, response=text, answer_type=kind)
    verdicts = list(verdicts_on(trace, {name: {} for name in rules}))
    assert not [v for v in verdicts if v.reason in ("too_slow", "raised")]
