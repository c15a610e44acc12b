from __future__ import annotations

import asyncio

import pytest

from pipeline.inference.concurrency import (
    FAILURES_TO_COOLDOWN,
    MAX_COOLDOWN,
    ConcurrencyLimit,
    EndpointPool,
    PooledEndpoint,
)


def fill(limit: ConcurrencyLimit) -> None:
    while limit.in_flight < int(limit.limit):
        limit.start()


def one_round(limit: ConcurrencyLimit, seconds: float = 0.1) -> float:
    """Answers as many requests as the limit, each with this time to first byte. Returns the new limit."""
    fill(limit)
    for _ in range(int(limit.limit)):
        answer(limit, seconds)
    return limit.limit


def answer(limit: ConcurrencyLimit, seconds: float = 0.1) -> None:
    limit.first_byte(seconds)
    limit.end(begun=True)
    limit.start()


# ------------------------------------------------------------------------------ the limit


def test_the_limit_starts_low_and_doubles_each_round_up_to_the_maximum() -> None:
    limit = ConcurrencyLimit(100)
    assert [limit.limit, *(one_round(limit) for _ in range(5))] == [8, 16, 32, 64, 100, 100]
    assert ConcurrencyLimit(3).limit == 3


def test_the_limit_grows_only_when_it_is_used() -> None:
    limit = ConcurrencyLimit(100)
    for _ in range(50):
        limit.start()
        limit.first_byte(0.1)
        limit.end(begun=True)
    assert limit.limit == 8


def test_the_limit_stays_while_first_bytes_are_slow_and_then_doubles_again() -> None:
    limit = ConcurrencyLimit(1000)
    assert one_round(limit, 1.0) == 16
    for _ in range(3):
        assert one_round(limit, 20.0) == 16
    assert [one_round(limit, 0.1) for _ in range(3)] == [32, 64, 128]


@pytest.mark.parametrize("seconds", [0.001, 1.9])
def test_quick_first_bytes_are_no_sign_of_a_queue(seconds: float) -> None:
    limit = ConcurrencyLimit(1000)
    one_round(limit, 0.0001)
    assert one_round(limit, seconds) == 32


def test_a_server_with_constantly_slow_first_bytes_is_not_limited() -> None:
    limit = ConcurrencyLimit(1000)
    assert [one_round(limit, 30.0) for _ in range(3)] == [16, 32, 64]


def test_overload_reduces_the_limit_once_a_round() -> None:
    limit = ConcurrencyLimit(100)
    for _ in range(4):
        one_round(limit)
    for _ in range(100):
        limit.overloaded()
    assert limit.limit == 70
    assert one_round(limit) == 71


@pytest.mark.parametrize(("ceiling", "every"), [(8, 3), (64, 4), (1000, 5)])
def test_an_occasional_refusal_does_not_reduce_the_limit(ceiling: int, every: int) -> None:
    limit = ConcurrencyLimit(ceiling)
    for i in range(20_000):
        fill(limit)
        if i % every:
            answer(limit)
        else:
            limit.overloaded()
    assert limit.limit == ceiling


def test_the_limit_grows_before_long_responses_end() -> None:
    limit, begun = ConcurrencyLimit(100), 0
    while begun < 100:
        fill(limit)
        assert limit.in_flight > begun
        for _ in range(limit.in_flight - begun):
            limit.first_byte(0.1)
            begun += 1
    assert limit.limit == 100


def test_the_limit_settles_near_the_slots_of_the_server() -> None:
    limit, slots, limits = ConcurrencyLimit(1000), 100, []
    for _ in range(500):
        fill(limit)
        for i in range(int(limit.limit)):
            if i < slots:
                answer(limit)
            else:  # refused at once, it is retried while the others are answered
                for _ in range(20):
                    limit.overloaded()
        limits.append(limit.limit)
    assert 50 < min(limits[100:]) <= max(limits[100:]) < 150


def test_the_limit_never_falls_below_one() -> None:
    limit = ConcurrencyLimit(100)
    for _ in range(1000):
        limit.overloaded()
    assert limit.limit == 1
    limit.start()
    for _ in range(16):
        answer(limit)
    assert limit.limit == 2


# ------------------------------------------------------------------------------ one endpoint


def test_each_refused_connection_lengthens_the_cooldown() -> None:
    endpoint, now, cooldowns = PooledEndpoint("a", 8), 0.0, []
    for _ in range(9):
        endpoint.record_failure(now, now, refused=True)
        cooldowns.append(endpoint.cooldown_until - now)
        now = endpoint.cooldown_until
    assert cooldowns == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    endpoint.record_first_byte(0.1)
    endpoint.record_success()
    endpoint.record_failure(now, now, refused=True)
    assert endpoint.cooldown_until == now + 1


def test_an_endpoint_down_for_days_is_still_requested_every_minute() -> None:
    endpoint, now = PooledEndpoint("a", 8), 0.0
    for _ in range(2000):
        endpoint.record_failure(now, now, refused=True)
        now = endpoint.cooldown_until
    endpoint.record_failure(now, now, refused=True)
    assert endpoint.cooldown_until == now + MAX_COOLDOWN


def test_requests_that_fail_together_start_one_cooldown() -> None:
    endpoint = PooledEndpoint("a", 8)
    for _ in range(8):
        endpoint.record_failure(started=1.0, now=2.0, refused=True)
    assert endpoint.cooldown_until == 3.0


def test_after_a_cooldown_an_endpoint_gets_one_request_until_it_answers() -> None:
    endpoint = PooledEndpoint("a", 8)
    endpoint.record_failure(0, 0, refused=True)
    assert endpoint.load(0.5) is None
    assert endpoint.load(1.0) == 0
    endpoint.concurrency.start()
    assert endpoint.load(1.0) is None
    endpoint.record_first_byte(0.1)
    assert endpoint.load(1.0) == 1 / 8


def test_only_consecutive_failures_start_a_cooldown() -> None:
    endpoint = PooledEndpoint("a", 8)
    for i in range(3 * FAILURES_TO_COOLDOWN):
        if i % (FAILURES_TO_COOLDOWN - 1) == 0:
            endpoint.record_success()
        endpoint.record_failure(i, i, refused=False)
    assert endpoint.load(99) == 0
    for i in range(FAILURES_TO_COOLDOWN):
        endpoint.record_failure(100 + i, 100 + i, refused=False)
    assert endpoint.load(100 + FAILURES_TO_COOLDOWN - 1) is None


def test_a_refusal_shows_that_the_endpoint_is_reachable() -> None:
    endpoint = PooledEndpoint("a", 8)
    endpoint.record_failure(0, 0, refused=True)
    endpoint.record_response()
    endpoint.concurrency.start()
    assert endpoint.load(1.0) == 1 / 8


# ------------------------------------------------------------------------------ the pool


def test_a_request_goes_to_the_endpoint_with_the_lowest_load() -> None:
    async def ask() -> list[str]:
        a, b = PooledEndpoint("a", 4), PooledEndpoint("b", 2)
        pool = EndpointPool([a, b], 100)
        return [(await pool.acquire()).endpoint.name for _ in range(6)]

    assert asyncio.run(ask()) == ["a", "b", "a", "a", "b", "a"]


def test_waiting_requests_keep_their_order() -> None:
    async def ask() -> None:
        pool = EndpointPool([PooledEndpoint("a", 1)], 100)
        slot = await pool.acquire()
        waiting = [asyncio.create_task(pool.acquire()) for _ in range(3)]
        await asyncio.sleep(0)
        for i in range(3):
            pool.release(slot)
            await asyncio.sleep(0)
            assert [task.done() for task in waiting] == [n <= i for n in range(3)]

    asyncio.run(ask())


def test_the_maximum_applies_to_all_endpoints_together() -> None:
    async def ask() -> None:
        pool = EndpointPool([PooledEndpoint("a", 3), PooledEndpoint("b", 3)], 3)
        for _ in range(3):
            await pool.acquire()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await pool.acquire()
        assert (pool.in_flight, pool.limit) == (3, 3)

    asyncio.run(ask())


def test_a_cancelled_request_leaves_its_slot_to_the_next() -> None:
    async def ask() -> None:
        pool = EndpointPool([PooledEndpoint("a", 1)], 100)
        slot = await pool.acquire()
        first, second, third = (asyncio.create_task(pool.acquire()) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()  # while it waits
        pool.release(slot)
        second.cancel()  # when it already has the slot
        await asyncio.sleep(0.01)
        assert (first.cancelled(), second.cancelled(), third.done()) == (True, True, True)
        assert pool.in_flight == 1

    asyncio.run(ask())


def test_during_the_cooldown_of_all_endpoints_requests_wait_for_the_first() -> None:
    async def ask() -> None:
        loop = asyncio.get_running_loop()
        a, b = PooledEndpoint("a", 8), PooledEndpoint("b", 8)
        a.start_cooldown(loop.time())
        b.start_cooldown(loop.time(), 0.05)
        pool = EndpointPool([a, b], 100)
        assert (await pool.acquire()).endpoint.name == "b"
        assert a.cooldown_until > loop.time() + MAX_COOLDOWN / 2
        pool.close()

    asyncio.run(ask())
