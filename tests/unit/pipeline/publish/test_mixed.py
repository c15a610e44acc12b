from pathlib import Path

import pyarrow.parquet as pq

from pipeline.inspect.run import open_run
from pipeline.publish import dataset
from tests.unit.pipeline.select.test_mix import chat_file, run_select


def test_dialogues_of_other_data_sets_are_counted_and_not_published(tmp_path: Path) -> None:
    given = [{"kind": "plain", "share": 0.3}, chat_file(tmp_path, 40) | {"count": 7}]
    examples = run_select(tmp_path, kept=3, mix=given)
    (tmp_path / "out").mkdir()
    written = dataset.write(open_run(tmp_path / "run"), tmp_path / "out", with_traces=False)
    rows = [
        row for path in sorted((tmp_path / "out/data").iterdir()) for row in pq.read_table(path).to_pylist()
    ]
    assert written.chats == 7
    assert written.splits.total() == len(rows) == len(examples) - 7
    assert {row["id"]: row["kind"] for row in rows} == {e.id: e.kind for e in examples if e.kind != "chat"}
