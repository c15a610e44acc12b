"""The columns of the sources in the published data set: names, types and values."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.arrow_schema import arrow_schema
from pipeline.publish import columns
from pipeline.publish.dataset import write
from pipeline.rows import Trace
from tests.small_run import HOSTILE, PROBLEMS, SHARDS, write_run


def shard(folder: Path, *texts: str | None) -> list[Path]:
    path = folder / "shard.parquet"
    pq.write_table(pa.table({"columns": pa.array(texts, pa.string())}), path)
    return [path]


@pytest.mark.parametrize(
    ("first", "second", "kind", "values"),
    [
        ("1", "-2", pa.int64(), [1, -2]),
        ("1", "2.5", pa.float64(), [1.0, 2.5]),
        ("true", "false", pa.bool_(), [True, False]),
        ('"a"', "1", pa.string(), ["a", "1"]),
        ('["a"]', '["é",1.5]', pa.string(), ['["a"]', '["é", 1.5]']),
        ("9999999999999999999999", "1", pa.float64(), [1e22, 1.0]),
        ("18446744073709551615", "1", pa.string(), ["18446744073709551615", "1"]),
        ("-9007199254740993", "0.5", pa.string(), ["-9007199254740993", "0.5"]),
        ("1" + "0" * 350, "1.5", pa.string(), ["1" + "0" * 350, "1.5"]),
        ("1e400", "1", pa.string(), ["1E+400", "1"]),
        ('{"a":null}', "true", pa.string(), ['{"a": null}', "true"]),
    ],
)
def test_a_column_has_the_type_of_its_values(
    tmp_path: Path, first: str, second: str, kind: pa.DataType, values: list[object]
) -> None:
    texts = [f'{{"x":{first}}}', f'{{"x":{second}}}', None, '{"y":"b"}']
    found = columns.type_of(shard(tmp_path, *texts))
    assert found == pa.struct([("x", kind), ("y", pa.string())])
    rows = columns.typed(pa.array(texts), found).to_pylist()
    assert [row and row["x"] for row in rows] == [*values, None, None]


def test_without_columns_the_field_is_left_out(tmp_path: Path) -> None:
    assert columns.type_of(shard(tmp_path, None, None)) is None
    assert "columns" not in columns.with_columns(arrow_schema(Trace), None).names


def test_very_many_names_stay_one_text(tmp_path: Path) -> None:
    texts = [f'{{"x{n}":1}}' for n in range(columns.MOST + 1)]
    found = columns.type_of(shard(tmp_path, *texts))
    assert found == pa.string()
    assert columns.typed(pa.array(texts), found).to_pylist() == texts


def test_examples_and_traces_are_published_with_their_columns(tmp_path: Path) -> None:
    run = write_run(tmp_path / "small")
    (tmp_path / "out").mkdir()
    write(run, tmp_path / "out", with_traces=True)
    for folder, rows in (("data", SHARDS * PROBLEMS), ("traces", SHARDS * PROBLEMS * 3)):
        table = pa.concat_tables(map(pq.read_table, sorted((tmp_path / "out" / folder).glob("*.parquet"))))
        assert table.num_rows == rows
        for trace_id, each in zip(table["id"].to_pylist(), table["columns"].to_pylist(), strict=True):
            level, part = int(trace_id[8:16], 16), int(trace_id[:8], 16)
            assert each == {"level": level, "note": HOSTILE, "shard": f"part/{part}"}
