"""Every rule has limits on the size of the text and on its CPU time."""

import re
from contextlib import suppress

import pytest

from filters import limits
from filters.limits import TooSlow, cpu_seconds
from filters.result import passed
from filters.table import FILTERS, FilterSpec, verdicts_of
from tests.unit.filters.test_table import a_trace

# Texts that made a pass quadratic once, or might: openings that never close, ambiguous marks.
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


def test_a_rule_that_computes_for_too_long_is_undecided(monkeypatch):
    def stuck(trace):
        re.fullmatch(r"(a+)+b", "a" * 60)
        return passed()

    monkeypatch.setitem(FILTERS, "stuck", FilterSpec(stuck, 1))
    monkeypatch.setattr(limits, "SECONDS", 0.2)
    stopped, after = verdicts_of(a_trace(), {"stuck": {}, "finished": {}})
    assert (stopped.outcome, stopped.reason, after.outcome) == ("undecided", "too_slow", "passed")


def test_no_exception_handler_in_a_rule_catches_the_limit():
    def stubborn():
        while True:
            with suppress(Exception):
                sum(range(1000))

    with pytest.raises(TooSlow), cpu_seconds(0.05):
        stubborn()


def test_a_text_longer_than_any_model_writes_is_not_filtered():
    trace = a_trace(response="7 " * 600_000)
    rules = {name: {} for name in FILTERS if name not in ("finished", "length", "confidence", "columns")}
    assert {(v.outcome, v.reason) for v in verdicts_of(trace, rules)} == {("undecided", "too_long")}
    truncated = a_trace(response="7 " * 600_000, finish_reason="length")
    assert next(verdicts_of(truncated, {"finished": {}})).reason == "truncated"


@pytest.mark.parametrize("text", REPEATED[:3])
def test_no_rule_comes_near_the_limit_on_text_that_was_once_quadratic(text):
    _apply_all(text, FILTERS)


@pytest.mark.slow
@pytest.mark.parametrize("text", REPEATED[3:])
@pytest.mark.parametrize("kind", ["math", "number", "choice", "yes_no", "text", "json"])
def test_no_rule_comes_near_the_limit(text, kind):
    _apply_all(text, FILTERS, kind)


def _apply_all(text, rules, kind="math"):
    """Quadratic work on this much text takes many times the limit."""
    text = text * (SIZE // len(text))
    trace = a_trace(reasoning=text, response=text, answer_type=kind)
    verdicts = list(verdicts_of(trace, {name: {} for name in rules if name != "columns"}))
    assert not [v for v in verdicts if v.reason in ("too_slow", "raised")]
