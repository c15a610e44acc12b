"""Traces and the verdicts on them are stored apart and read together."""

from pathlib import Path

import pytest

from pipeline.engine.shard import Shard
from pipeline.errors import UserError
from pipeline.filter.verdicts import filtered_batches, filtered_traces
from pipeline.inspect.run import Run
from pipeline.rows import Trace, TraceVerdicts
from tests.small_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "small")


def shards(run: Run) -> tuple[Shard, Shard]:
    stored = {"generate": Trace, "filter": TraceVerdicts}
    traces, verdicts = (Shard(run.path / stage, "shard-00000", row, {}) for stage, row in stored.items())
    return traces, verdicts


def rewrite(shard: Shard, rows: list[TraceVerdicts]) -> None:
    shard.path.unlink()
    shard.write(row.model_dump() for row in rows)


def test_a_trace_is_read_with_the_verdicts_on_it(run: Run) -> None:
    traces, verdicts = shards(run)
    read = list(filtered_traces(traces, verdicts))
    assert [t.id for t in read] == traces.column("id")
    assert [t.verdicts for t in read] == [v.verdicts for v in verdicts.rows()]
    assert {t.outcome for t in read} == {"kept", "rejected"}
    assert {t.outcome for t in traces.rows()} == {"unfiltered"}


def test_only_the_wanted_columns_are_read(run: Run) -> None:
    (batch,) = filtered_batches(*shards(run), leave_out=Trace.model_fields.keys() - {"id", "outcome"})
    assert batch.schema.names == ["id", "outcome"]


@pytest.mark.parametrize("change", [slice(1, None), slice(None, None, -1), slice(0, 0)])
def test_verdicts_on_other_traces_are_refused(run: Run, change: slice) -> None:
    traces, verdicts = shards(run)
    rewrite(verdicts, list(verdicts.rows())[change])
    with pytest.raises(UserError, match="holds verdicts on other traces"):
        list(filtered_traces(traces, verdicts))


def test_verdicts_on_more_traces_are_refused(run: Run) -> None:
    traces, verdicts = shards(run)
    rows = list(verdicts.rows())
    rewrite(verdicts, [*rows, rows[0]])
    with pytest.raises(UserError, match="holds verdicts on other traces"):
        list(filtered_traces(traces, verdicts))
