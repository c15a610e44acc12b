import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.progress import Progress
from pipeline.engine.scheduler import MOST_IN_A_ROW, Plan, WorkItem, work
from pipeline.engine.shard import Shard
from pipeline.errors import Stopped, UserError, WorkItemFailed
from pipeline.rows import Problem
from tests.unit.test_shard import problem

LANE = "lane"


class Bench:
    """Three shards of ten units each, and a record of what was asked."""

    def follow(self, row: Problem) -> Sequence[WorkItem]:
        return ()

    def __init__(self, folder: Path) -> None:
        self.shards = [Shard(folder, f"shard-{i}", Problem, {}) for i in range(3)]
        self.asked: list[str] = []

    def units(self, shard: Shard) -> Sequence[WorkItem]:
        return [WorkItem(f"{shard.name}-{i}", f"{shard.name}-{i}", LANE) for i in range(10)]

    def plan(self, shard: Shard) -> Plan:
        units, held = self.units(shard), shard.held()
        owed = [replace(unit, tried=unit.key in held.failed) for unit in units if unit.key not in held.rows]
        return Plan(shard, [unit.key for unit in units], set(held.rows), owed, self.follow)

    def work(
        self,
        do: Callable[[str], Any] = problem,
        concurrency: int = 8,
        accept: int = 0,
        watch: Callable[[], str | None] = lambda: None,
        **options: Any,
    ) -> None:
        async def once(unit: WorkItem) -> Problem:
            self.asked.append(unit.key)
            await asyncio.sleep(0.001 * (hash(unit.key) % 7))
            return do(unit.args)

        self.progress = Progress("test", 30, sum(shard.count().rows for shard in self.shards))
        asyncio.run(
            work(
                [(shard, partial(self.plan, shard)) for shard in self.shards],
                once,
                lambda unit, error: problem(unit.args),
                slots={LANE: concurrency},
                after={"later": 2},
                accept=lambda: accept,
                progress=self.progress,
                watch=watch,
                **options,
            )
        )


def fails_on(*names: str) -> Callable[[str], Problem]:
    def do(name: str) -> Problem:
        if name in names:
            raise ValueError("cannot")
        return problem(name)

    return do


def test_every_unit_is_done_once_and_rows_keep_the_order_wanted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.work()
    assert len(bench.asked) == len(set(bench.asked)) == 30
    for shard in bench.shards:
        assert [p.id for p in shard.rows()] == [u.key for u in bench.units(shard)]
    bench.work()
    assert len(bench.asked) == 30


def test_any_concurrency_gives_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for concurrency in (1, 5, 64):
        folder = tmp_path / str(concurrency)
        folder.mkdir()
        bench = Bench(folder)
        bench.work(concurrency=concurrency)
        files.append([shard.path.read_bytes() for shard in bench.shards])
    assert files[0] == files[1] == files[2]


def test_a_unit_that_fails_is_data_and_only_it_is_tried_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.work(fails_on("shard-1-3"))
    assert [s.sealed for s in bench.shards] == [True, False, True]
    assert bench.shards[1].held().failed == {"shard-1-3": "ValueError: cannot"}
    bench.asked.clear()
    bench.work()
    assert bench.asked == ["shard-1-3"]
    assert all(s.sealed for s in bench.shards)


def test_failures_within_what_is_accepted_become_rows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.work(fails_on("shard-1-3", "shard-2-0"), accept=1)
    assert [s.sealed for s in bench.shards] == [True, False, False]
    bench.work(fails_on("shard-1-3", "shard-2-0"), accept=2)
    assert all(s.sealed for s in bench.shards)


def test_failures_of_an_earlier_try_do_not_keep_the_others_from_being_tried(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    lasting = [f"shard-{i}-{j}" for i in range(3) for j in range(MOST_IN_A_ROW // 3 + 1)]
    assert len(lasting) > MOST_IN_A_ROW
    with pytest.raises(Stopped):
        bench.work(fails_on(*(f"shard-{i}-{j}" for i in range(3) for j in range(10))), concurrency=1)
    bench.work(fails_on(*lasting))
    bench.work(fails_on(*lasting), accept=len(lasting))
    assert all(s.sealed for s in bench.shards)


def test_when_everything_fails_the_work_stops_soon(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    everything = [u.key for s in bench.shards for u in bench.units(s)]
    with pytest.raises(
        Stopped, match=f"{MOST_IN_A_ROW} units failed in a row, the last with ValueError: cannot"
    ):
        bench.work(fails_on(*everything), concurrency=2)
    assert len(bench.asked) <= MOST_IN_A_ROW + 2


def test_what_finished_before_a_fatal_error_is_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def do(name: str) -> Problem:
        if name == "shard-2-5":
            raise UserError("no such model")
        return problem(name)

    with pytest.raises(UserError, match="no such model"):
        bench.work(do, concurrency=1)
    done = sum(len(s.held().rows) if not s.sealed else 10 for s in bench.shards)
    assert done == 25


def test_bad_news_from_the_watch_stops_the_work(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="the server died"):
        Bench(tmp_path).work(watch=lambda: "the server died")


def test_a_disk_that_refuses_stops_the_work(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.shards[0].journal.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        bench.work()


class Chains(Bench):
    """Each row of an even number leads to another row; each row is done once more in another lane."""

    def units(self, shard: Shard) -> Sequence[WorkItem]:
        return [WorkItem(f"{shard.name}-{i}", f"{shard.name}-{i}", LANE, length=i) for i in range(5)]

    def plan(self, shard: Shard) -> Plan:
        first = super().plan(shard)
        order = [f"{shard.name}-{i}" for i in range(10)]
        held = shard.held(("origin",)).rows
        units = list(first.units)
        for row in shard.find(held.keys()):
            units += self.follow(row)
        return Plan(shard, order, set(held), units, self.follow)

    def follow(self, row: Problem) -> Sequence[WorkItem]:
        name, _, number = row.id.rpartition("-")
        if row.origin == "here:1":
            return [WorkItem(row.id, f"{row.id}!", "later")]
        if int(number) % 2 == 0 and int(number) < 5:
            return [WorkItem(f"{name}-{int(number) + 5}", f"{name}-{int(number) + 5}", LANE)]
        return ()


def again(name: str) -> Problem:
    row = problem(name.removesuffix("!"))
    return row.model_copy(update={"origin": "judged"}) if name.endswith("!") else row


CHAINED = [0, 1, 2, 3, 4, 5, 7, 9]  # of each shard: five rows, and the three that the even ones lead to


def test_rows_that_lead_to_others_keep_the_shard_open_until_the_last_is_in(tmp_path: Path) -> None:
    bench = Chains(tmp_path)
    bench.work(again)
    for shard in bench.shards:
        rows = list(shard.rows())
        assert [row.id for row in rows] == [f"{shard.name}-{i}" for i in CHAINED]
        assert {row.origin for row in rows} == {"judged"}
    assert len(bench.asked) == 2 * len(CHAINED) * 3


def test_a_chain_that_broke_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    calm, torn = Chains(tmp_path), Chains(tmp_path / "torn")
    (tmp_path / "torn").mkdir()
    calm.work(again)
    for stop in range(1, 40, 3):

        def do(name: str, most: int = stop) -> Problem:
            if len(torn.asked) % 40 >= most:
                raise UserError("stop here")
            return again(name)

        torn.asked.clear()
        with suppress(UserError):
            torn.work(do)
    torn.work(again)
    assert [s.path.read_bytes() for s in torn.shards] == [s.path.read_bytes() for s in calm.shards]


def test_a_row_that_is_done_again_is_counted_once(tmp_path: Path) -> None:
    bench = Chains(tmp_path)

    def stop(name: str) -> Problem:
        if len(bench.asked) > 20:
            raise UserError("stop here")
        return again(name)

    with suppress(UserError):
        bench.work(stop)
    bench.work(again)
    assert bench.progress.at_start > 0
    assert bench.progress.done == 3 * len(CHAINED)


def test_the_longest_units_within_reach_start_first(tmp_path: Path) -> None:
    bench = Chains(tmp_path)
    bench.work(again, concurrency=4)
    assert bench.asked[0] == "shard-0-4"


def test_units_refused_for_their_own_sake_stop_the_work_only_when_there_are_many(tmp_path: Path) -> None:
    class Refused(WorkItemFailed):
        refused = True

    def do(name: str) -> Problem:
        if not name.endswith("-9"):
            raise Refused("too long for the context")
        return problem(name)

    bench = Bench(tmp_path)
    bench.work(do)
    assert len(bench.asked) == 30 > MOST_IN_A_ROW
