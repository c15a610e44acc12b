"""Queries over sealed files: what they may touch, and where they put what does not fit into memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine.query import connect, query
from pipeline.engine.shard import Shard
from pipeline.errors import UserError
from pipeline.rows import Problem
from tests.unit.pipeline.engine.test_shard import problem

SPILL = """
import sys
from pathlib import Path
from pipeline.engine.query import _private_folder, connect

folder = Path(_private_folder())
with connect((), memory_limit="60MB", threads=1) as connection:
    wide = "select md5(i::varchar) || repeat(md5((i + 1)::varchar), 10) as text from range(400000) t(i)"
    connection.execute(f"create temp table held as {wide}")
    print(folder, oct(folder.stat().st_mode & 0o777), len(list(folder.rglob("*.tmp"))) > 0)
"""


def test_what_does_not_fit_into_memory_goes_to_a_private_folder_that_is_removed() -> None:
    done = subprocess.run([sys.executable, "-c", SPILL], capture_output=True, text=True)
    assert not done.stderr
    folder, mode, spilled = done.stdout.split()
    assert (mode, spilled) == ("0o700", "True")
    assert not Path(folder).exists()


def test_a_slow_query_writes_nothing_to_the_terminal() -> None:
    with connect(()) as connection:
        assert connection.execute("select current_setting('enable_progress_bar')").fetchone() == (False,)


@pytest.mark.parametrize(
    "text",
    [
        "from read_text('{path}')",
        "from read_parquet('{path}')",
        "copy (select 1) to '{path}.csv'",
        "install httpfs",
    ],
)
def test_a_connection_reads_the_files_that_it_was_given_and_no_other(tmp_path: Path, text: str) -> None:
    import duckdb

    shard, other = (Shard(tmp_path, name, Problem, {}) for name in ("a", "b"))
    for each in (shard, other):
        each.write([problem("p").model_dump()])
    assert query([shard.path], ["id"], "select id from rows") == [("p",)]
    with connect([shard.path]) as connection, pytest.raises(duckdb.Error):
        connection.execute(text.format(path=other.path))


def test_a_damaged_file_is_told_in_one_line(tmp_path: Path) -> None:
    shard = Shard(tmp_path, "a", Problem, {})
    shard.write([problem("p").model_dump()])
    shard.path.write_bytes(shard.path.read_bytes()[:-20])
    with pytest.raises(UserError) as error:
        query([shard.path], ["id"], "select id from rows")
    assert str(shard.path) in str(error.value)
    assert "\n" not in str(error.value)
