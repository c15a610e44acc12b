import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import scheduler
from pipeline.engine.progress import Progress
from pipeline.engine.scheduler import MAX_CONSECUTIVE_FAILURES, Plan, WorkItem, run_items
from pipeline.engine.shard import Shard
from pipeline.errors import Stopped, UserError, WorkItemFailed
from pipeline.rows import Problem
from tests.unit.pipeline.engine.test_shard import problem

QUEUE = "queue"


class Bench:
    """Three shards of ten items each, and the keys of the processed items."""

    def next_items(self, row: Problem) -> Sequence[WorkItem]:
        return ()

    def __init__(self, folder: Path) -> None:
        self.shards = [Shard(folder, f"shard-{i}", Problem, {}) for i in range(3)]
        self.processed: list[str] = []

    def items(self, shard: Shard) -> Sequence[WorkItem]:
        return [WorkItem(f"{shard.name}-{i}", f"{shard.name}-{i}", QUEUE) for i in range(10)]

    def plan(self, shard: Shard) -> Plan:
        items, journal = self.items(shard), shard.read_journal()
        pending = [
            replace(item, failed_before=item.key in journal.failed)
            for item in items
            if item.key not in journal.rows
        ]
        return Plan(shard, [item.key for item in items], set(journal.rows), pending, self.next_items)

    def work(
        self,
        do: Callable[[str], Any] = problem,
        concurrency: int = 8,
        max_failed: int = 0,
        health_check: Callable[[], str | None] = lambda: None,
        **options: Any,
    ) -> None:
        async def once(item: WorkItem) -> Problem:
            self.processed.append(item.key)
            await asyncio.sleep(0.001 * (hash(item.key) % 7))
            return do(item.payload)

        self.progress = Progress("test", 30, sum(shard.count().rows for shard in self.shards))
        asyncio.run(
            run_items(
                self.shards,
                self.plan,
                once,
                lambda item, error: problem(item.payload),
                slots={QUEUE: concurrency},
                follow_up_slots={"later": 2},
                max_failed=lambda: max_failed,
                progress=self.progress,
                health_check=health_check,
                **options,
            )
        )


def fails_on(*names: str) -> Callable[[str], Problem]:
    def do(name: str) -> Problem:
        if name in names:
            raise ValueError("cannot")
        return problem(name)

    return do


def test_every_item_runs_once_and_rows_keep_the_planned_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.work()
    assert len(bench.processed) == len(set(bench.processed)) == 30
    for shard in bench.shards:
        assert [p.id for p in shard.rows()] == [item.key for item in bench.items(shard)]
    bench.work()
    assert len(bench.processed) == 30


def test_any_concurrency_gives_the_same_bytes(tmp_path: Path) -> None:
    files = []
    for concurrency in (1, 5, 64):
        folder = tmp_path / str(concurrency)
        folder.mkdir()
        bench = Bench(folder)
        bench.work(concurrency=concurrency)
        files.append([shard.path.read_bytes() for shard in bench.shards])
    assert files[0] == files[1] == files[2]


def test_a_failed_item_is_recorded_and_only_it_runs_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.work(fails_on("shard-1-3"))
    assert [s.sealed for s in bench.shards] == [True, False, True]
    assert bench.shards[1].read_journal().failed == {"shard-1-3": "ValueError: cannot"}
    bench.processed.clear()
    bench.work()
    assert bench.processed == ["shard-1-3"]
    assert all(s.sealed for s in bench.shards)


def test_failures_up_to_the_allowed_number_become_rows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.work(fails_on("shard-1-3", "shard-2-0"), max_failed=1)
    assert [s.sealed for s in bench.shards] == [True, False, False]
    bench.work(fails_on("shard-1-3", "shard-2-0"), max_failed=2)
    assert all(s.sealed for s in bench.shards)


def test_repeated_failures_do_not_keep_other_items_from_running(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    lasting = [f"shard-{i}-{j}" for i in range(3) for j in range(MAX_CONSECUTIVE_FAILURES // 3 + 1)]
    assert len(lasting) > MAX_CONSECUTIVE_FAILURES
    with pytest.raises(Stopped):
        bench.work(fails_on(*(f"shard-{i}-{j}" for i in range(3) for j in range(10))), concurrency=1)
    bench.work(fails_on(*lasting))
    bench.work(fails_on(*lasting), max_failed=len(lasting))
    assert all(s.sealed for s in bench.shards)


def test_the_run_stops_soon_when_every_item_fails(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    everything = [item.key for s in bench.shards for item in bench.items(s)]
    with pytest.raises(
        Stopped, match=f"{MAX_CONSECUTIVE_FAILURES} items failed in a row, the last with ValueError: cannot"
    ):
        bench.work(fails_on(*everything), concurrency=2)
    assert len(bench.processed) <= MAX_CONSECUTIVE_FAILURES + 2


def test_rows_from_before_a_fatal_error_are_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def do(name: str) -> Problem:
        if name == "shard-2-5":
            raise UserError("no such model")
        return problem(name)

    with pytest.raises(UserError, match="no such model"):
        bench.work(do, concurrency=1)
    done = sum(len(s.read_journal().rows) if not s.sealed else 10 for s in bench.shards)
    assert done == 25


def test_a_failed_health_check_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="the server died"):
        Bench(tmp_path).work(health_check=lambda: "the server died")


def test_a_reached_limit_starts_nothing_more_and_keeps_what_is_in_flight(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    def reached(running: Mapping[str, int]) -> str | None:
        return "enough" if len(bench.processed) >= 12 else None

    with pytest.raises(Stopped, match="enough"):
        bench.work(concurrency=4, limit_reached=reached)
    assert 12 <= len(bench.processed) < 12 + 4
    assert len(bench.processed) == sum(shard.count().rows for shard in bench.shards)
    with pytest.raises(Stopped, match="enough"):
        bench.work(limit_reached=lambda running: "enough")
    bench.work(
        limit_reached=lambda running: "enough" if len(bench.processed) >= 30 else None
    )  # nothing is left then
    assert len(bench.processed) == 30
    assert all(shard.sealed for shard in bench.shards)


def test_a_process_whose_shard_another_one_begins_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "LOOK_INTERVAL", 0)
    bench, begun = Bench(tmp_path), list[str]()
    for shard in bench.shards:
        Shard(tmp_path, shard.name, Problem, {}, "18bd1a2b3c4d5e6e345012").repair()  # began before

    def do(name: str) -> Problem:
        if name == "shard-1-2":
            Shard(tmp_path, "shard-1", Problem, {}, "18bd1a2b3c4d5e6f012345").repair()
            begun.extend(bench.processed)
        return problem(name)

    with pytest.raises(Stopped, match="another process has taken over, beginning with shard-1"):
        bench.work(do, concurrency=2)
    assert [s.sealed for s in bench.shards] == [True, False, False]
    assert bench.processed == begun  # nothing was begun after that
    assert len(begun) == sum(shard.count().rows for shard in bench.shards)
    bench.work()
    assert len(bench.processed) == 30


def test_a_disk_error_stops_the_run(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.shards[0].journal.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        bench.work()


class Chains(Bench):
    """Each row of an even number leads to another row; each row is done once more in another queue."""

    def items(self, shard: Shard) -> Sequence[WorkItem]:
        return [WorkItem(f"{shard.name}-{i}", f"{shard.name}-{i}", QUEUE, length=i) for i in range(5)]

    def plan(self, shard: Shard) -> Plan:
        first = super().plan(shard)
        order = [f"{shard.name}-{i}" for i in range(10)]
        rows = shard.read_journal(("origin",)).rows
        items = list(first.items)
        for row in shard.journal_rows(rows.keys()):
            items += self.next_items(row)
        return Plan(shard, order, set(rows), items, self.next_items)

    def next_items(self, row: Problem) -> Sequence[WorkItem]:
        name, _, number = row.id.rpartition("-")
        if row.origin == "here:1":
            return [WorkItem(row.id, f"{row.id}!", "later")]
        if int(number) % 2 == 0 and int(number) < 5:
            return [WorkItem(f"{name}-{int(number) + 5}", f"{name}-{int(number) + 5}", QUEUE)]
        return ()


def again(name: str) -> Problem:
    row = problem(name.removesuffix("!"))
    return row.model_copy(update={"origin": "repeated"}) if name.endswith("!") else row


CHAINED = [0, 1, 2, 3, 4, 5, 7, 9]  # of each shard: five rows, and the three that the even ones lead to


def test_a_shard_stays_open_until_the_items_that_follow_from_rows_are_done(tmp_path: Path) -> None:
    bench = Chains(tmp_path)
    bench.work(again)
    for shard in bench.shards:
        rows = list(shard.rows())
        assert [row.id for row in rows] == [f"{shard.name}-{i}" for i in CHAINED]
        assert {row.origin for row in rows} == {"repeated"}
    assert len(bench.processed) == 2 * len(CHAINED) * 3


def test_an_interrupted_chain_of_items_resumes(tmp_path: Path) -> None:
    calm, torn = Chains(tmp_path), Chains(tmp_path / "torn")
    (tmp_path / "torn").mkdir()
    calm.work(again)
    for stop in range(1, 40, 3):

        def do(name: str, most: int = stop) -> Problem:
            if len(torn.processed) % 40 >= most:
                raise UserError("stop here")
            return again(name)

        torn.processed.clear()
        with suppress(UserError):
            torn.work(do)
    torn.work(again)
    assert [s.path.read_bytes() for s in torn.shards] == [s.path.read_bytes() for s in calm.shards]


def test_a_replaced_row_is_counted_once(tmp_path: Path) -> None:
    bench = Chains(tmp_path)

    def stop(name: str) -> Problem:
        if len(bench.processed) > 20:
            raise UserError("stop here")
        return again(name)

    with suppress(UserError):
        bench.work(stop)
    bench.work(again)
    assert bench.progress.at_start > 0
    assert bench.progress.done == 3 * len(CHAINED)


def test_the_longest_pending_item_starts_first(tmp_path: Path) -> None:
    bench = Chains(tmp_path)
    bench.work(again, concurrency=4)
    assert bench.processed[0] == "shard-0-4"


def test_refused_items_stop_the_run_only_when_there_are_many(tmp_path: Path) -> None:
    class Refused(WorkItemFailed):
        refused = True

    def do(name: str) -> Problem:
        if not name.endswith("-9"):
            raise Refused("too long for the context")
        return problem(name)

    bench = Bench(tmp_path)
    bench.work(do)
    assert len(bench.processed) == 30 > MAX_CONSECUTIVE_FAILURES
