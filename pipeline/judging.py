"""Judging the traces of a shard, and shards side by side in processes.

Rules see a trace; majority and difficulty see the samples of one problem together. Columns that no rule
reads, the token log-probabilities, are carried over as Arrow without becoming Python objects. Leaves out what
looks across all shards (stages/filter.py).
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import filters
from pipeline.machine import cores
from pipeline.rows import Trace, Verdict, arrow_schema
from pipeline.shard import Shard

if TYPE_CHECKING:
    import pyarrow as pa

ALONE = 4000  # traces that are judged sooner than other processes have started
_UNREAD = ("logprobs",)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Judges:
    """What is asked of every trace; has to be picklable."""

    rules: filters.Rules


def judge_shard(judges: Judges, traces: Shard, judged: Shard) -> int:
    """Write the shard of judged traces; gives how many."""
    verdicts = [v for problem in _by_problem(traces) for v in _on_problem(judges, problem)]
    judged.write_groups(_with_verdicts(traces, verdicts))
    return len(verdicts)


def judge_shards(judges: Judges, todo: Sequence[tuple[Shard, Shard]], done: Callable[[int], None]) -> None:
    """Judge every shard that is not yet, in as many processes as there are cores where that pays."""
    run(judge_shard, [(judges, traces, judged) for traces, judged in todo if not judged.sealed], done)


def run(work: Callable[..., int], todo: Sequence[tuple[Any, ...]], done: Callable[[int], None]) -> None:
    """Call `work` with each of the arguments; `done` is told what each gives, in any order.

    The arguments are (judges, shard to read, ...). The first error stops what has not begun.
    """
    if sum(given.count().rows for _, given, *_ in todo) <= ALONE or len(todo) == 1 or len(cores()) == 1:
        for arguments in todo:
            done(work(*arguments))
        return
    with ProcessPoolExecutor(
        min(len(cores()), len(todo)), mp_context=get_context("spawn"), initializer=_begin
    ) as pool:
        futures = [pool.submit(work, *arguments) for arguments in todo]
        try:
            for future in as_completed(futures):
                done(future.result())
        finally:
            pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """A process that judges: the terminal's Ctrl-C is its parent's to handle, whose end is its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux alone has it
    if prctl:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _by_problem(traces: Shard) -> Iterator[list[Trace]]:
    """The samples of each problem, which lie side by side."""
    records = (record for batch in traces.batches(leave_out=_UNREAD) for record in batch.to_pylist())
    for _, samples in groupby(records, key=lambda record: record["problem_id"]):
        # What we wrote ourselves was checked when it was written.
        yield [Trace.model_construct(**record) for record in samples]


def _on_problem(judges: Judges, traces: Sequence[Trace]) -> Iterator[list[Verdict]]:
    for trace in traces:
        yield list(filters.verdicts_on(trace, judges.rules))


def _with_verdicts(traces: Shard, verdicts: Sequence[Sequence[Verdict]]) -> Iterator[pa.Table]:
    """The shard's rows as they are, with these verdicts and what follows from them."""
    import pyarrow as pa

    schema = arrow_schema(Trace)
    start = 0
    for batch in traces.batches():
        some = verdicts[start : start + len(batch)]
        start += len(batch)
        decided = [filters.decide(each) for each in some]
        columns = {
            "verdicts": [[dict(verdict) for verdict in each] for each in some],
            "outcome": [outcome for outcome, _ in decided],
            "reason": [reason for _, reason in decided],
        }
        table = pa.Table.from_batches([batch])
        for name, values in columns.items():
            at = schema.get_field_index(name)
            table = table.set_column(at, schema.field(name), pa.array(values, schema.field(name).type))
        yield table
