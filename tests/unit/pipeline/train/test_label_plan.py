"""Which examples the teacher still has to read."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.journal import failed_line
from pipeline.engine.shard import Shard
from pipeline.rows import SoftLabels
from pipeline.train import labels


def test_an_example_that_failed_in_an_earlier_command_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    tokens = pa.array([[1, 2], [3]], pa.list_(pa.int32()))
    rows = {"id": ["a", "b"], "context": tokens, "answer": tokens, "texts": [None, None]}
    pq.write_table(pa.table(rows), tmp_path / "cache" / "shard-0.parquet")
    shard = Shard(tmp_path, "shard-0", SoftLabels, {})
    shard.append([failed_line("a", "HTTP 500", first=True)])
    job = SimpleNamespace(output=SimpleNamespace(folder=tmp_path))
    plan = labels._plan(job, shard)  # type: ignore[arg-type]
    assert [(item.key, item.failed_before) for item in plan.items] == [("a", True), ("b", False)]
