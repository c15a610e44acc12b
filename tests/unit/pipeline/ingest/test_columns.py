"""The other columns of a row: which are kept, how they are written, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.config.sources import DatasetSource, FileSource
from pipeline.errors import UserError
from pipeline.ingest import columns
from pipeline.ingest.files import BadRow
from pipeline.ingest.sources import check, read
from pipeline.rows import Problem

ROW = {"question": "1 + 1?", "answer": "2", "level": 3, "source": "book", "note": None, "tags": ["a", 0.5]}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def kept(source: FileSource) -> list[str | None]:
    rows = list(read(source, held_out=0, seed=0))
    assert not [row for row in rows if isinstance(row, BadRow)]
    return [row.columns for row in rows if isinstance(row, Problem)]


def bad(source: FileSource) -> list[str]:
    return [row.why for row in read(source, held_out=0, seed=0) if isinstance(row, BadRow)]


def test_every_other_column_is_kept_sorted_and_without_nulls(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", ROW)
    assert kept(FileSource(kind="file", path=str(path))) == ['{"level":3,"source":"book","tags":["a",0.5]}']


@pytest.mark.parametrize(("wanted", "text"), [((), None), (("level",), '{"level":3}')])
def test_a_list_keeps_the_columns_that_it_names(tmp_path: Path, wanted: Any, text: str | None) -> None:
    path = write(tmp_path / "p.jsonl", ROW)
    assert kept(FileSource(kind="file", path=str(path), columns=wanted)) == [text]


def test_the_id_does_not_depend_on_the_columns(tmp_path: Path) -> None:
    path = str(write(tmp_path / "p.jsonl", ROW))
    ids = {
        row.id
        for each in ("all", (), ("tags",))
        for row in read(FileSource(kind="file", path=path, columns=each), held_out=0, seed=0)
        if isinstance(row, Problem)
    }
    assert len(ids) == 1


def test_files_and_data_sets_keep_the_same_columns(tmp_path: Path) -> None:
    row = ROW | {"tags": ["a", "b"]}  # Parquet has one type in a list
    rows = [row, row | {"question": "2 + 2?", "level": None}]
    folder = tmp_path / "set"
    folder.mkdir()
    write(tmp_path / "p.jsonl", *rows)
    write(folder / "train.jsonl", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    expected = ['{"level":3,"source":"book","tags":["a","b"]}', '{"source":"book","tags":["a","b"]}']
    for name in ("p.jsonl", "p.parquet"):
        assert kept(FileSource(kind="file", path=str(tmp_path / name))) == expected
    assert kept(DatasetSource(kind="dataset", path=str(folder))) == expected


def test_images_of_a_data_set_are_left_out_undecoded(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image, Value

    features = Features({"question": Value("string"), "answer": Value("string"), "image": Image()})
    row = {"question": "1 + 1?", "answer": "2", "image": {"bytes": b"no image at all", "path": None}}
    Dataset.from_list([row], features=features).save_to_disk(str(tmp_path / "set"))
    left_out: Counter[str] = Counter()
    (found,) = read(DatasetSource(kind="dataset", path=str(tmp_path / "set")), 0, 0, left_out)
    assert isinstance(found, Problem)
    assert (found.columns, left_out) == (None, {"image": 1})


def test_a_column_that_holds_the_reference_is_never_kept(tmp_path: Path) -> None:
    row = {"question": "1 + 1?", "level": 1, "truth": {"answer": "2", "solution": "It is 2."}}
    path = str(write(tmp_path / "p.jsonl", row))
    assert kept(FileSource(kind="file", path=path, reference="truth.answer")) == ['{"level":1}']
    wanted = ("truth.solution",)
    assert kept(FileSource(kind="file", path=path, reference="truth.answer", columns=wanted)) == [
        '{"truth.solution":"It is 2."}'
    ]
    for name in ("truth", "truth.answer"):
        with pytest.raises(ValidationError, match="which the source reads already"):
            FileSource(kind="file", path=path, reference="truth.answer", columns=(name,))


def test_a_large_value_is_left_out_and_counted_unless_it_is_named(tmp_path: Path) -> None:
    path = str(write(tmp_path / "p.jsonl", ROW | {"tags": "x" * columns.VALUE_LIMIT, "": 1}))
    left_out: Counter[str] = Counter()
    (row,) = read(FileSource(kind="file", path=path), 0, 0, left_out)
    assert isinstance(row, Problem)
    assert row.columns == '{"level":3,"source":"book"}'
    assert left_out == {"tags": 1, "": 1}
    assert kept(FileSource(kind="file", path=path, columns=("tags",))) == [
        '{"tags":"' + "x" * columns.VALUE_LIMIT + '"}'
    ]


def test_a_row_with_too_much_in_its_columns_is_a_bad_row(tmp_path: Path) -> None:
    path = str(write(tmp_path / "p.jsonl", ROW | {"tags": "x" * columns.ROW_LIMIT}))
    (why,) = bad(FileSource(kind="file", path=path, columns=("tags",)))
    assert "name fewer in `columns`" in why


def test_a_named_column_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    path = str(write(tmp_path / "p.jsonl", ROW))
    with pytest.raises(UserError, match="no column 'difficulty'; there are question, answer, level"):
        check(FileSource(kind="file", path=path, columns=("level", "difficulty")))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("0.10"), "0.10"),
        (float("nan"), None),
        (True, "true"),
        (datetime(2026, 1, 2, tzinfo=UTC), '"2026-01-02T00:00:00+00:00"'),
        ({"b": 1, "a": [None, "é"]}, '{"a":[null,"é"],"b":1}'),
    ],
)
def test_a_value_is_written_as_json(value: Any, text: str | None) -> None:
    assert columns.named(("x",), lambda _: value) == (text and f'{{"x":{text}}}')


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"\x89PNG", "a bytes is not JSON"),
        ("a\0b", "NUL character"),
        ("\ud800", "not UTF-8"),
        (float("inf"), "inf is not JSON"),
        (columns.Number("9" * 500), "a number of 500 digits"),
        (json.loads("[" * 30 + "]" * 30), "nested too deeply"),
    ],
)
def test_a_value_that_json_lacks_is_refused_by_name_and_left_out_otherwise(value: Any, why: str) -> None:
    with pytest.raises(columns.InvalidColumn, match=f"column 'x': .*{why}"):
        columns.named(("x",), lambda _: value)
    left_out: Counter[str] = Counter()
    assert columns.all_but({"x": value, "y": 1}, (), left_out) == '{"y":1}'
    assert left_out == {"x": 1}
