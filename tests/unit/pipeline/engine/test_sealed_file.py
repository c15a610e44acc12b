import random
import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine import sealed_file
from pipeline.engine.shard import Shard
from pipeline.errors import UserError
from pipeline.rows import Trace
from tests.small_run import write_run

WORDS = pa.schema([("id", pa.string()), ("text", pa.string()), ("marks", pa.list_(pa.int32()))])


def words(first: int, count: int) -> pa.Table:
    rows = [
        {"id": f"{i}", "text": f"word {i} " * 9, "marks": [i, i + 1]} for i in range(first, first + count)
    ]
    return pa.Table.from_pylist(rows, schema=WORDS)


def flipped(data: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


def test_other_readers_see_a_plain_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    sealed_file.write(path, WORDS, [words(0, 5), words(5, 3)])
    assert pq.read_table(path).equals(words(0, 8))
    assert duckdb.sql(f"select count(*), max(len(marks)) from '{path}'").fetchall() == [(8, 2)]
    with sealed_file.opened(path) as file:
        assert file.num_row_groups == 2
        assert file.read().equals(words(0, 8))


def test_a_flipped_bit_anywhere_in_a_sealed_shard_is_detected(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run").output("generate").sealed_paths()[0]
    shard = Shard(path.parent, path.stem, Trace, {})
    good, rows = path.read_bytes(), list(shard.rows())
    draw = random.Random(0)
    mark = good.rindex(b"checksum")  # without its mark a file counts as one from elsewhere
    for _ in range(300):
        place, bit = draw.randrange(len(good)), draw.randrange(8)
        path.write_bytes(flipped(good, place, bit))
        if mark <= place < mark + 8:
            assert list(shard.rows()) == rows
        else:
            with pytest.raises(UserError, match=re.escape(str(path))) as told:
                list(shard.rows())
            assert "\n" not in str(told.value)


def test_only_the_requested_columns_are_verified(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    sealed_file.write(path, WORDS, [words(0, 50)])
    with sealed_file.opened(path) as file:
        column = file.metadata.row_group(0).column(1)
        place = column.data_page_offset + column.total_compressed_size // 2
    path.write_bytes(flipped(path.read_bytes(), place, 0))
    with sealed_file.opened(path, ["id", "marks"]) as file:
        assert file.metadata.num_rows == 50
    with pytest.raises(UserError, match="the checksum of column 'text' does not match"):
        sealed_file.check(path, ["id", "text"])
    with pytest.raises(UserError, match="it has no column 'colour'"):
        sealed_file.check(path, ["colour"])


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_file_is_damaged(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.parquet"
    sealed_file.write(path, WORDS, [words(0, 50)])
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        UserError, match=r"a\.parquet is damaged \(.+\): restore it from a copy, or delete it"
    ):
        sealed_file.check(path, ())


def test_a_file_of_another_writer_is_read_without_checksums(tmp_path: Path) -> None:
    pq.write_table(words(0, 5), tmp_path / "a.parquet")
    with sealed_file.opened(tmp_path / "a.parquet", ["id"]) as file:
        assert file.metadata.num_rows == 5


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.parquet: no longer exists"):
        sealed_file.check(tmp_path / "a.parquet")


def test_a_file_sealed_by_another_process_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    sealed_file.write(path, WORDS, [words(0, 5)])
    first = path.read_bytes()
    sealed_file.write(path, WORDS, [words(0, 6)])
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]
