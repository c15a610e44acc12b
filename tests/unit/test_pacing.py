from __future__ import annotations

import asyncio

import pytest

from pipeline.inference.concurrency import (
    IN_A_ROW,
    MAX_COOLDOWN,
    ConcurrencyLimit,
    EndpointPool,
    PooledEndpoint,
)


def fill(level: ConcurrencyLimit) -> None:
    while level.in_flight < int(level.limit):
        level.start()


def one_round(level: ConcurrencyLimit, seconds: float = 0.1) -> float:
    """As many short answers as the limit, each begun after so long; the limit that comes of it."""
    fill(level)
    for _ in range(int(level.limit)):
        answer(level, seconds)
    return level.limit


def answer(level: ConcurrencyLimit, seconds: float = 0.1) -> None:
    level.first_byte(seconds)
    level.end(begun=True)
    level.start()


# ------------------------------------------------------------------------------ the level


def test_the_level_starts_low_and_doubles_each_round_up_to_its_ceiling() -> None:
    level = ConcurrencyLimit(100)
    assert [level.limit, *(one_round(level) for _ in range(5))] == [8, 16, 32, 64, 100, 100]
    assert ConcurrencyLimit(3).limit == 3


def test_the_level_grows_only_when_it_is_used() -> None:
    level = ConcurrencyLimit(100)
    for _ in range(50):
        level.start()
        level.first_byte(0.1)
        level.end(begun=True)
    assert level.limit == 8


def test_the_level_holds_while_answers_are_slow_to_begin_and_doubles_again_after() -> None:
    level = ConcurrencyLimit(1000)
    assert one_round(level, 1.0) == 16
    for _ in range(3):
        assert one_round(level, 20.0) == 16
    assert [one_round(level, 0.1) for _ in range(3)] == [32, 64, 128]


@pytest.mark.parametrize("seconds", [0.001, 1.9])
def test_answers_that_begin_quickly_are_no_sign_of_a_queue(seconds: float) -> None:
    level = ConcurrencyLimit(1000)
    one_round(level, 0.0001)
    assert one_round(level, seconds) == 32


def test_a_server_that_always_begins_slowly_is_not_held_back_for_it() -> None:
    level = ConcurrencyLimit(1000)
    assert [one_round(level, 30.0) for _ in range(3)] == [16, 32, 64]


def test_overload_shrinks_the_level_once_a_round() -> None:
    level = ConcurrencyLimit(100)
    for _ in range(4):
        one_round(level)
    for _ in range(100):
        level.overloaded()
    assert level.limit == 70
    assert one_round(level) == 71


@pytest.mark.parametrize(("ceiling", "every"), [(8, 3), (64, 4), (1000, 5)])
def test_a_refusal_now_and_then_does_not_shrink_it(ceiling: int, every: int) -> None:
    level = ConcurrencyLimit(ceiling)
    for i in range(20_000):
        fill(level)
        if i % every:
            answer(level)
        else:
            level.overloaded()
    assert level.limit == ceiling


def test_long_answers_need_not_end_for_the_level_to_grow() -> None:
    level, begun = ConcurrencyLimit(100), 0
    while begun < 100:
        fill(level)
        assert level.in_flight > begun
        for _ in range(level.in_flight - begun):
            level.first_byte(0.1)
            begun += 1
    assert level.limit == 100


def test_it_settles_near_what_a_server_with_so_many_slots_takes() -> None:
    level, slots, limits = ConcurrencyLimit(1000), 100, []
    for _ in range(500):
        fill(level)
        for i in range(int(level.limit)):
            if i < slots:
                answer(level)
            else:  # refused at once, it asks again and again while the others are answered
                for _ in range(20):
                    level.overloaded()
        limits.append(level.limit)
    assert 50 < min(limits[100:]) <= max(limits[100:]) < 150


def test_the_level_never_falls_below_one() -> None:
    level = ConcurrencyLimit(100)
    for _ in range(1000):
        level.overloaded()
    assert level.limit == 1
    level.start()
    for _ in range(16):
        answer(level)
    assert level.limit == 2


# ------------------------------------------------------------------------------ one address


def test_a_refused_connection_sets_an_address_aside_for_longer_each_time() -> None:
    place, now, rests = PooledEndpoint("a", 8), 0.0, []
    for _ in range(9):
        place.failed(now, now, refused=True)
        rests.append(place.cooldown_until - now)
        now = place.cooldown_until
    assert rests == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    place.began(0.1)
    place.record_success()
    place.failed(now, now, refused=True)
    assert place.cooldown_until == now + 1


def test_an_address_that_stays_away_for_days_is_still_tried_every_minute() -> None:
    place, now = PooledEndpoint("a", 8), 0.0
    for _ in range(2000):
        place.failed(now, now, refused=True)
        now = place.cooldown_until
    place.failed(now, now, refused=True)
    assert place.cooldown_until == now + MAX_COOLDOWN


def test_requests_that_fail_together_set_an_address_aside_once() -> None:
    place = PooledEndpoint("a", 8)
    for _ in range(8):
        place.failed(started=1.0, now=2.0, refused=True)
    assert place.cooldown_until == 3.0


def test_an_address_that_was_set_aside_gets_one_request_until_it_answers() -> None:
    place = PooledEndpoint("a", 8)
    place.failed(0, 0, refused=True)
    assert place.use(0.5) is None
    assert place.use(1.0) == 0
    place.level.start()
    assert place.use(1.0) is None
    place.began(0.1)
    assert place.use(1.0) == 1 / 8


def test_failures_in_a_row_set_an_address_aside_but_not_with_a_success_between() -> None:
    place = PooledEndpoint("a", 8)
    for i in range(3 * IN_A_ROW):
        if i % (IN_A_ROW - 1) == 0:
            place.record_success()
        place.failed(i, i, refused=False)
    assert place.use(99) == 0
    for i in range(IN_A_ROW):
        place.failed(100 + i, 100 + i, refused=False)
    assert place.use(100 + IN_A_ROW - 1) is None


def test_an_answer_that_is_a_refusal_shows_that_the_address_is_there() -> None:
    place = PooledEndpoint("a", 8)
    place.failed(0, 0, refused=True)
    place.record_response()
    place.level.start()
    assert place.use(1.0) == 1 / 8


# ------------------------------------------------------------------------------ all addresses


def test_a_request_goes_where_the_most_room_is() -> None:
    async def ask() -> list[str]:
        a, b = PooledEndpoint("a", 4), PooledEndpoint("b", 2)
        places = EndpointPool([a, b], 100)
        return [(await places.take()).place.name for _ in range(6)]

    assert asyncio.run(ask()) == ["a", "b", "a", "a", "b", "a"]


def test_requests_wait_for_room_in_the_order_of_asking() -> None:
    async def ask() -> None:
        places = EndpointPool([PooledEndpoint("a", 1)], 100)
        slot = await places.take()
        waiting = [asyncio.create_task(places.take()) for _ in range(3)]
        await asyncio.sleep(0)
        for i in range(3):
            places.give(slot)
            await asyncio.sleep(0)
            assert [task.done() for task in waiting] == [n <= i for n in range(3)]

    asyncio.run(ask())


def test_the_ceiling_holds_over_all_addresses() -> None:
    async def ask() -> None:
        places = EndpointPool([PooledEndpoint("a", 3), PooledEndpoint("b", 3)], 3)
        for _ in range(3):
            await places.take()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await places.take()
        assert (places.in_flight, places.level) == (3, 3)

    asyncio.run(ask())


def test_a_cancelled_request_leaves_its_room_to_the_next() -> None:
    async def ask() -> None:
        places = EndpointPool([PooledEndpoint("a", 1)], 100)
        slot = await places.take()
        first, second, third = (asyncio.create_task(places.take()) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()  # while it waits
        places.give(slot)
        second.cancel()  # when it has been handed the room already
        await asyncio.sleep(0.01)
        assert (first.cancelled(), second.cancelled(), third.done()) == (True, True, True)
        assert places.in_flight == 1

    asyncio.run(ask())


def test_when_all_addresses_are_set_aside_requests_wait_until_the_first_is_back() -> None:
    async def ask() -> None:
        loop = asyncio.get_running_loop()
        a, b = PooledEndpoint("a", 8), PooledEndpoint("b", 8)
        a.start_cooldown(loop.time())
        b.start_cooldown(loop.time(), 0.05)
        places = EndpointPool([a, b], 100)
        assert (await places.take()).place.name == "b"
        assert a.cooldown_until > loop.time() + MAX_COOLDOWN / 2
        places.close()

    asyncio.run(ask())
