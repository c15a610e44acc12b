"""Failed samples that a recipe accepts are counted as failed."""

from pathlib import Path

from pipeline.engine.store import Output
from pipeline.inspect.stage_summary import lines
from pipeline.inspect.status import status_of
from pipeline.rows import Trace
from tests.small_run import write_run


def test_accepted_failures_are_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "small")
    shard = Output(run.path / "generate", Trace).shards()[0]
    first, *others = shard.rows()
    shard.path.unlink()
    failed = first.model_copy(update={"finish_reason": "failed", "error": "HTTP 500"})
    Output(run.path / "generate", Trace).write(shard.name, [failed, *others])
    counted = {line.stage: line.failed for line in status_of(run).stages}
    assert (counted["generate"], counted["filter"]) == (1, 0)
    assert any("1 of the traces failed" in line for line in lines(run, "generate"))
