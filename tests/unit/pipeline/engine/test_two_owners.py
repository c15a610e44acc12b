"""A shard with two owners: one is stopped just before a write, another does the work, the first wakes up."""

import asyncio
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from itertools import count
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine.journal import done_line, failed_line
from pipeline.engine.manifest import Manifest
from pipeline.engine.progress import Progress
from pipeline.engine.scheduler import Plan, WorkItem, run_items
from pipeline.engine.shard import Counts, Shard
from pipeline.engine.store import Output
from pipeline.errors import Stopped
from pipeline.rows import Problem, Trace
from tests.unit.pipeline.engine.test_shard import problem
from tests.unit.pipeline.generate.test_sample_plan import trace

KEYS = [f"p{i:03}" for i in range(12)]
MANY = 600  # rows: three row groups
CONCURRENCY = 4
MANIFEST = Manifest(stage="ingest", version=1, settings={}, inputs={}, shards=("shard.0",))
WRITES = ("os.link", "os.remove", "os.rename")  # audit events
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "pandas", "pyarrow.parquet"])


def write_at_once(shard: Shard, stop_at: int, asked: Path) -> None:
    def rows() -> Any:
        for i in range(MANY):
            if stop_at == -i and i:
                os.kill(os.getpid(), signal.SIGSTOP)
            yield problem(f"p{i}").model_dump()

    shard.write(rows())


def append_and_seal(shard: Shard, stop_at: int, asked: Path) -> None:
    shard.repair()
    for key in KEYS:
        if key not in shard.read_journal().rows:
            shard.append([done_line(problem(key))])
    shard.seal(KEYS)


def schedule(shard: Shard, stop_at: int, asked: Path) -> None:
    async def process(item: WorkItem) -> Problem:
        with asked.open("a") as file:
            file.write(f"{item.key}\n")
        await asyncio.sleep(0.002)
        return problem(item.key)

    def plan(shard: Shard) -> Plan:
        done = set(shard.read_journal().rows)
        return Plan(shard, KEYS, done, [WorkItem(key, None) for key in KEYS if key not in done])

    asyncio.run(
        run_items(
            [shard],
            plan,
            process,
            lambda item, error: problem(item.key),
            slots={"": CONCURRENCY},
            max_failed=lambda: 0,
            progress=Progress("test", len(KEYS)),
            health_check=lambda: None,
        )
    )


Work = Callable[[Shard, int, Path], None]


def attempt(folder: Path, work: Work, stop_at: int, locked: bool) -> None:
    """A command. Without the lock, it acts like one on another machine."""
    if stop_at > 0:
        stop_before_write(folder, stop_at)
    output = Output(folder, Problem)
    try:
        with output.lock() if locked else nullcontext():
            output.save(MANIFEST)
            work(output.shards()[0], stop_at, folder.with_name("asked"))
            output.finish()
    except Stopped:
        sys.exit(3)


def stop_before_write(folder: Path, number: int) -> None:
    writes = count(1)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        writing = event in WRITES or (event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR))
        if writing and str(args[0]).startswith(f"{folder}/") and next(writes) == number:
            os.kill(os.getpid(), signal.SIGSTOP)

    sys.addaudithook(hook)


def start(folder: Path, work: Work, stop_at: int = 0) -> BaseProcess:
    process = PROCESSES.Process(target=attempt, args=(folder, work, stop_at, stop_at == 0))
    process.start()
    return process


def stopped(process: BaseProcess) -> bool:
    """Waits until the process is stopped, or ended."""
    state = ""
    with suppress(FileNotFoundError, ProcessLookupError):  # it is gone
        while state not in ("T", "Z"):
            time.sleep(0.005)
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "T"


def taken_over(folder: Path, work: Work, stop_at: int) -> bool:
    """Stops the first owner, lets a second one finish, and wakes the first; False if it was not stopped."""
    first = start(folder, work, stop_at)
    if not stopped(first):
        first.join()
        return False
    assert first.pid
    unsaved = asked_for(folder) - Output(folder, Problem).counts().rows  # in flight, or not on disk yet
    second = start(folder, work)
    second.join()
    assert second.exitcode == 0
    os.kill(first.pid, signal.SIGCONT)
    first.join()
    assert first.exitcode in (0, 3)
    if work is schedule:  # an item that was about to start is still asked for
        assert asked_for(folder) <= len(KEYS) + unsaved + CONCURRENCY
    return True


def asked_for(folder: Path) -> int:
    asked = folder.with_name("asked")
    return len(asked.read_text().split()) if asked.exists() else 0


def check(folder: Path, good: bytes) -> None:
    output = Output(folder, Problem)
    assert (folder / "shard.0.parquet").read_bytes() == good
    assert sorted(os.listdir(folder)) == [".lock", "manifest.json", "shard.0.parquet"]
    assert output.complete
    rows = len(list(output.rows()))
    assert output.counts() == Counts(rows=rows, shards=1, sealed=1)


@pytest.mark.parametrize("work", [write_at_once, append_and_seal, schedule])
def test_an_owner_stopped_at_any_write_changes_nothing_when_it_wakes(tmp_path: Path, work: Work) -> None:
    alone = tmp_path / "alone" / "stage"
    start(alone, work).join()
    good = (alone / "shard.0.parquet").read_bytes()
    within_rows = [-1, -300, 1 - MANY] if work is write_at_once else []  # negative: before that row
    for stop_at in (*within_rows, *range(1, 100)):
        folder = tmp_path / str(stop_at) / "stage"
        folder.parent.mkdir()
        if not taken_over(folder, work, stop_at):
            break
        check(folder, good)
    assert stop_at > 8  # manifest, seal and digests: at least nine writes


OLDEST, OLDER, NEWER = "18bd1a2b3c4d5e6e345012", "18bd1a2b3c4d5e6f012345", "18bd1a2b3c4d5e70543210"


def owned(folder: Path, name: str, owner: str, row: Any = Problem) -> Shard:
    return Shard(folder, name, row, {}, owner)


def step(continuations: int, finish_reason: str = "length", outcome: str = "unfiltered") -> Trace:
    fields = {"continuations": continuations, "finish_reason": finish_reason, "outcome": outcome}
    return trace("p-0-0000", response=f"{continuations}", **fields)


def test_rows_of_all_owners_are_read_and_sealed_and_their_journals_removed(tmp_path: Path) -> None:
    first, second = owned(tmp_path, "s", OLDER), owned(tmp_path, "s", NEWER)
    first.append([done_line(problem("a"))])
    second.append([done_line(problem("b"))])
    owned(tmp_path, "s", OLDEST).append([done_line(problem("c"))])
    for shard in (first, second, Shard(tmp_path, "s", Problem, {})):
        assert shard.read_journal().rows.keys() == {"a", "b", "c"}
        assert [row.id for row in shard.journal_rows({"b"})] == ["b"]
        assert shard.count() == Counts(rows=3, shards=1)
    second.seal(["b", "c", "a"])
    assert [row.id for row in first.rows()] == ["b", "c", "a"]
    assert os.listdir(tmp_path) == ["s.parquet"]


def test_shards_whose_names_share_a_beginning_do_not_share_journals(tmp_path: Path) -> None:
    for name in ("s", "s.a", "s.a.b"):
        owned(tmp_path, name, OLDER).append([done_line(problem(name))])
    for name in ("s", "s.a", "s.a.b"):
        assert Shard(tmp_path, name, Problem, {}).read_journal().rows.keys() == {name}


def test_a_torn_line_of_another_owner_stays_and_is_not_reported(tmp_path: Path) -> None:
    first, second = owned(tmp_path, "s", OLDER), owned(tmp_path, "s", NEWER)
    first.append([done_line(problem("a")), b"damaged\n", done_line(problem("b"))[:-9]])
    torn = first.journal.read_bytes()
    assert second.repair() == 1
    assert first.journal.read_bytes() == torn
    assert second.read_journal().rows.keys() == {"a"}
    assert first.repair() == 1
    assert first.journal.read_bytes().endswith(b"damaged\n")


def test_a_row_that_is_further_along_is_not_replaced_by_one_of_a_later_owner(tmp_path: Path) -> None:
    first, second = owned(tmp_path, "s", OLDER, Trace), owned(tmp_path, "s", NEWER, Trace)
    third = Shard(tmp_path, "s", Trace, {})
    first.append([done_line(step(0)), done_line(step(2))])
    second.append([done_line(step(1))])
    assert third.read_journal(["response"]).rows == {"p-0-0000": {"response": "2"}}
    second.append([done_line(step(2, "stop"))])
    assert [row.finish_reason for row in third.journal_rows({"p-0-0000"})] == ["stop"]
    first.append([done_line(step(2, "stop", "kept"))])
    assert [row.outcome for row in third.journal_rows({"p-0-0000"})] == ["kept"]
    second.append([done_line(step(0, "failed"))])
    assert [row.outcome for row in third.journal_rows({"p-0-0000"})] == ["kept"]


def test_an_owner_seals_the_row_that_it_decided_on(tmp_path: Path) -> None:
    first, second = owned(tmp_path, "s", OLDER, Trace), owned(tmp_path, "s", NEWER, Trace)
    second.append([done_line(step(0, "failed"))])
    first.append([done_line(step(2))])
    second.seal(["p-0-0000"])
    assert [row.finish_reason for row in second.rows()] == ["failed"]


def test_an_item_that_failed_for_one_owner_and_is_done_by_another_is_done(tmp_path: Path) -> None:
    first, second = owned(tmp_path, "s", OLDER), owned(tmp_path, "s", NEWER)
    second.append([failed_line("a", "no answer", first=True)])
    first.append([done_line(problem("a"))])
    assert second.count() == Counts(rows=1, shards=1)
    second.append([failed_line("a", "no continuation")])  # it has a row, and its next step failed
    assert second.count() == Counts(rows=0, failed=1, shards=1)


def test_a_shard_sealed_while_its_journals_are_read_is_read_from_the_sealed_file(tmp_path: Path) -> None:
    first, second = owned(tmp_path, "s", OLDER), owned(tmp_path, "s", NEWER)
    first.append([done_line(problem("a"))])
    first.seal(["a"])
    assert second.read_journal(["question"]).rows == {"a": {"question": "a?"}}
    assert [row.id for row in second.journal_rows({"a"})] == ["a"]
    second.append([done_line(problem("a"))])
    assert os.listdir(tmp_path) == ["s.parquet"]
    second.seal(["a"])
    assert os.listdir(tmp_path) == ["s.parquet"]
