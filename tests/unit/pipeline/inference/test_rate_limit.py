from __future__ import annotations

from email.utils import formatdate

import pytest

from pipeline.inference.rate_limit import INITIAL_ESTIMATE, Bucket, RateLimiter
from pipeline.inference.retry import MAX_BACKOFF, OVERLOADS_PER_RETRY, RetryBudget, backoff, read_retry_after


def wait_and_take(bucket: Bucket, amount: float, now: float) -> float:
    """Takes the amount. Returns the seconds that it has to wait."""
    wait = bucket.wait(amount, now)
    bucket.take(amount, now)
    return wait


def sent_in(bucket: Bucket, requests: int, amount: float = 1) -> list[float]:
    """The times at which requests may be sent if all come at once."""
    return [wait_and_take(bucket, amount, 0.0) for _ in range(requests)]


@pytest.mark.parametrize("per_minute", [6, 60, 600])
def test_no_minute_exceeds_the_limit_by_more_than_a_second_of_it(per_minute: int) -> None:
    times = sent_in(Bucket(per_minute), 3 * per_minute)
    busiest = max(sum(start <= t < start + 60 for t in times) for start in times)
    assert per_minute <= busiest <= per_minute + max(1, per_minute / 60)


def test_unused_amounts_do_not_accumulate() -> None:
    bucket = Bucket(60)
    assert wait_and_take(bucket, 1, 0.0) == 0
    assert wait_and_take(bucket, 1, 3600.0) == 0
    assert wait_and_take(bucket, 1, 3600.0) == pytest.approx(1)


def test_a_debt_delays_the_next_request() -> None:
    bucket = Bucket(60)
    assert wait_and_take(bucket, 1, 0.0) == 0
    bucket.take(10, 0.0)
    assert wait_and_take(bucket, 1, 0.0) == pytest.approx(11)
    bucket.take(-5, 0.0)
    assert wait_and_take(bucket, 1, 0.0) == pytest.approx(7)


def test_a_request_over_the_limit_is_sent_and_delays_the_next() -> None:
    bucket = Bucket(60)
    assert wait_and_take(bucket, 600, 0.0) == 0
    assert wait_and_take(bucket, 1, 0.0) == pytest.approx(600)


def test_tokens_are_estimated_from_previous_responses() -> None:
    limiter = RateLimiter(None, 6000)
    assert limiter.wait(500, 0.0) == 0
    assert limiter.take(500, 0.0) == 500
    limiter.reconcile(500, 90, 0.0)
    assert limiter.wait(500, 0.0) == pytest.approx(0.8)  # 100 a second, 10 are left
    assert limiter.take(500, 0.0) == 90


def test_the_first_estimate_does_not_depend_on_max_tokens() -> None:
    limiter = RateLimiter(None, 60_000)
    assert limiter.take(32_768, 0.0) == INITIAL_ESTIMATE
    assert limiter.wait(32_768, 0.0) < 60


def test_a_short_response_shortens_the_wait() -> None:
    limiter = RateLimiter(None, 6000)
    estimate = limiter.take(1000, 0.0)
    before = limiter.wait(1000, 0.0)
    limiter.reconcile(estimate, 50, 0.0)
    assert limiter.wait(1000, 0.0) < before / 10


def test_tokens_of_a_failed_request_are_returned() -> None:
    limiter = RateLimiter(None, 60)
    for _ in range(5):
        assert limiter.wait(500, 0.0) == 0
        limiter.reconcile(limiter.take(500, 0.0), 0, 0.0)


def test_without_limits_nothing_waits() -> None:
    limiter = RateLimiter(None, None)
    for _ in range(1000):
        assert limiter.wait(10**6, 0.0) == 0
        limiter.reconcile(limiter.take(10**6, 0.0), 10**6, 0.0)


def test_the_slower_of_both_limits_counts() -> None:
    limiter = RateLimiter(60, 60)
    limiter.take(1, 0.0)
    limiter.reconcile(1, 10, 0.0)
    assert limiter.wait(10, 0.0) > 5


def test_the_backoff_grows_up_to_a_minute_and_is_random() -> None:
    for budget, longest in [(0, 0.5), (1, 1), (4, 8), (7, MAX_BACKOFF), (10**6, MAX_BACKOFF)]:
        waits = [backoff(budget) for _ in range(200)]
        assert 0 <= min(waits) < longest / 4
        assert longest / 2 < max(waits) <= longest


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7),
        (" 0.25 ", 0.25),
        (formatdate(1030, usegmt=True), 30),
        ("0", 0),
        (formatdate(900, usegmt=True), None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Sun, 06 Nov 2044 08:49:37 +9999", None),
        ("1m30s", None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("1e9", None),
        ("\u0661", None),
        ("9" * 400, None),
        ("Mon, 99 Foo 2026 99:99:99", None),
    ],
)
def test_retry_after_is_a_number_or_a_date(value: str | None, seconds: float | None) -> None:
    assert read_retry_after(value, None, 1000.0) == seconds


def test_retry_after_in_milliseconds_takes_precedence() -> None:
    assert read_retry_after("3600", "250", 1000.0) == 0.25
    assert read_retry_after("3600", "soon", 1000.0) == 3600
    assert read_retry_after(None, "250", 1000.0) == 0.25


def test_the_retries_of_a_request_are_bounded() -> None:
    budget = RetryBudget(2, answered=0)
    for _ in range(2):
        budget.fail(counts=True, answered=0)
    assert not budget.spent
    budget.fail(counts=True, answered=0)
    assert budget.spent
    assert budget.failed == 3


def test_overloads_count_only_while_others_are_answered() -> None:
    alone, passed_over = RetryBudget(1, answered=7), RetryBudget(1, answered=7)
    for i in range(1, 1000):
        alone.fail(counts=False, answered=8)  # one other was answered, once
        if not passed_over.spent:
            passed_over.fail(counts=False, answered=7 + i)
    assert not alone.spent
    assert passed_over.failed == 2 * OVERLOADS_PER_RETRY
