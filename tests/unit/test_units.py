import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Stopped, UserError
from pipeline.progress import Progress
from pipeline.rows import Problem
from pipeline.shard import Shard
from pipeline.units import MOST_IN_A_ROW, Unit, work
from tests.unit.test_shard import problem


class Bench:
    """Three shards of ten units each, and a record of what was asked."""

    def __init__(self, folder: Path) -> None:
        self.shards = [Shard(folder, f"shard-{i}", Problem, {}) for i in range(3)]
        self.asked: list[str] = []

    def units(self, shard: Shard) -> Sequence[Unit]:
        return [Unit(f"{shard.name}-{i}", f"{shard.name}-{i}") for i in range(10)]

    def work(
        self,
        do: Callable[[str], Any] = problem,
        watch: Callable[[], str | None] = lambda: None,
        **options: Any,
    ) -> None:
        async def once(name: str) -> Problem:
            self.asked.append(name)
            await asyncio.sleep(0.001 * (hash(name) % 7))
            return do(name)

        def units_of(shard: Shard) -> Callable[[], Sequence[Unit]]:
            return lambda: self.units(shard)

        options = {"concurrency": 8, "accept": 0, **options}
        asyncio.run(
            work(
                [(shard, units_of(shard)) for shard in self.shards],
                once,
                lambda name, error: problem(name),
                progress=Progress("test", 30),
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
    done = sum(len(s.held().keys) if not s.sealed else 10 for s in bench.shards)
    assert done == 25


def test_bad_news_from_the_watch_stops_the_work(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="the server died"):
        Bench(tmp_path).work(watch=lambda: "the server died")


def test_a_disk_that_refuses_stops_the_work(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.shards[0].journal.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        bench.work()
