"""The stage `select` on the Parquet files of a small run: what is left out adds up, over all shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.select import Select
from pipeline.engine import worker_pool
from pipeline.engine.changed_settings import manifest_of
from pipeline.engine.stage import Job
from pipeline.engine.store import Output
from pipeline.rows import Trace
from pipeline.select.lengths import quotas
from pipeline.select.stage import LEFT_OUT, SELECT, prepare, report, work
from tests.small_run import PROBLEMS, SHARDS, write_run

KEPT = 2  # of each problem
LONG = "Then I take the number and add the next one to it, as the question says, until all are added. " * 3


def selected(folder: Path, **settings: Any) -> Job:
    """The job after all shards are written; problem i of a shard has traces of 10 i and 10 i + 1 tokens."""
    run = write_run(folder, kept=KEPT)
    output = Output(run.path / "generate", Trace)
    for shard in output.shards():
        rows = list(shard.rows())
        shard.path.unlink()
        problems = list(dict.fromkeys(row.problem_id for row in rows))
        shard.write(
            row.model_copy(
                update={
                    "completion_tokens": 10 * problems.index(row.problem_id) + row.sample,
                    "reasoning": LONG + f"sample {row.sample}",
                }
            ).model_dump()
            for row in rows
        )
    select = Select(validation=0, **settings)
    job = Job(SELECT, run.recipe.model_copy(update={"select": select}), run.path)
    for shard in job.output.shards():
        shard.path.unlink()
    job.output.save(manifest_of(job))
    job.prepared = prepare(job)
    for shard in job.output.shards():
        work(job, (shard,))
    return job


def assert_adds_up(found: dict[str, int]) -> None:
    assert found["kept"] == KEPT * PROBLEMS * SHARDS
    assert found["kept"] == sum(found[name] for name in ("train", "validation", *LEFT_OUT))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_mix_of_lengths_holds_over_all_shards(
    tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_pool, "MIN_PARALLEL_ROWS", 0 if processes > 1 else 4000)
    bands = ({"max_tokens": 9, "share": 0.1}, {"max_tokens": 19, "share": 0.5})
    job = selected(tmp_path / "run", lengths=bands)
    found = report(job)
    assert_adds_up(found)
    each = KEPT * SHARDS  # examples of one problem in every shard
    expected = quotas([each, each, (PROBLEMS - 2) * each], [0.1, 0.5, 1])
    tokens = [row.tokens for row in job.output.rows()]
    assert [sum(low <= n < high for n in tokens) for low, high in ((0, 10), (10, 20), (20, 99))] == expected
    assert found["over_share"] == found["kept"] - sum(expected) > 0


def test_near_identical_traces_of_a_problem_are_left_out(tmp_path: Path) -> None:
    found = report(selected(tmp_path / "run", diverse=0.7))
    assert_adds_up(found)
    assert found["near_identical"] == (KEPT - 1) * PROBLEMS * SHARDS


def test_without_these_settings_every_different_trace_is_taken(tmp_path: Path) -> None:
    found = report(selected(tmp_path / "run"))
    assert_adds_up(found)
    assert found["train"] == found["kept"]
