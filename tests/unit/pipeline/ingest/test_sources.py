"""Sources of every kind, from real files: their problems, refused ones, and the cost of damage."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.sources import DatasetSource, FileSource, GymSource, Source
from pipeline.errors import UserError
from pipeline.ingest.files import BadRow
from pipeline.ingest.lines import RECORD_LIMIT
from pipeline.ingest.sources import check, fingerprint, name_of, problem_id, read, split_of
from pipeline.rows import Problem

ROWS = [{"question": "What is 1 + 1?", "answer": "2"}, {"question": "What is 2 + 2?", "answer": "4"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def file(path: Path, content: str | bytes = LINES, **settings: Any) -> FileSource:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return FileSource(kind="file", path=str(path), **settings)


def everything(source: Source) -> list[Problem | BadRow]:
    return list(read(source, held_out=0.5, seed=0))


def problems(source: Source) -> list[Problem]:
    found = everything(source)
    assert not [row for row in found if isinstance(row, BadRow)]
    return [row for row in found if isinstance(row, Problem)]


def pairs(source: Source) -> list[tuple[str, str | None]]:
    return [(p.question, p.reference) for p in problems(source)]


def bad(source: Source) -> list[str]:
    return [f"{Path(r.origin).name}: {r.why}" for r in everything(source) if isinstance(r, BadRow)]


def refusal(source: Source) -> str:
    with pytest.raises(UserError) as caught:
        check(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_parquet(path: Path, rows: list[dict[str, Any]], row_group_size: int = 100) -> FileSource:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    return FileSource(kind="file", path=str(path))


EXPECTED = [("What is 1 + 1?", "2"), ("What is 2 + 2?", "4")]
CSV = "question,answer\nWhat is 1 + 1?,2\nWhat is 2 + 2?,4\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.jsonl", LINES.encode()),
        ("p.json", json.dumps(ROWS).encode()),
        ("p.csv", CSV.encode()),
        ("p.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("p.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
        ("p.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("P.JSONL", LINES.encode()),
        ("bom.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("bom.json", b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
        ("bom.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("crlf.jsonl", LINES.replace("\n", "\r\n").encode()),
        ("crlf.csv", CSV.replace("\n", "\r\n").encode()),
        ("blank_lines.jsonl", LINES.replace("\n", "\n\n  \n").encode()),
        ("no_last_newline.jsonl", LINES.rstrip().encode()),
    ],
)
def test_a_file_of_each_kind_gives_the_same_problems(tmp_path: Path, name: str, content: bytes) -> None:
    source = file(tmp_path / name, content)
    check(source)
    assert pairs(source) == EXPECTED


def test_parquet_gives_the_same_problems(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "p.parquet", ROWS, row_group_size=1)
    check(source)
    assert pairs(source) == EXPECTED
    assert [p.origin for p in problems(source)] == [f"{tmp_path}/p.parquet row {n}" for n in (1, 2)]


def test_a_problem_says_where_it_comes_from(tmp_path: Path) -> None:
    source = file(tmp_path / "sums.jsonl", "\n" + LINES, answer_type="text")
    first = problems(source)[0]
    assert (first.origin, first.source, first.answer_type) == (f"{tmp_path}/sums.jsonl:2", "sums", "text")
    assert first.id == problem_id("What is 1 + 1?")


def test_a_pattern_reads_its_files_in_order_of_their_names(tmp_path: Path) -> None:
    for name, row in zip(("b.jsonl", "a.jsonl"), ROWS, strict=True):
        file(tmp_path / name, json.dumps(row))
    source = FileSource(kind="file", path=str(tmp_path / "*.jsonl"))
    check(source)
    assert pairs(source) == EXPECTED[::-1]
    assert list(fingerprint(source)["files"]) == [str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]


def test_a_file_named_like_a_pattern_is_read_as_itself(tmp_path: Path) -> None:
    assert pairs(file(tmp_path / "p[1].jsonl")) == EXPECTED


def test_a_dot_names_a_nested_field_unless_a_column_has_that_name(tmp_path: Path) -> None:
    rows = [{"problem": {"text": "inside", "n": 1}, "answer": "1"}]
    source = file(tmp_path / "p.jsonl", json.dumps(rows[0]), question="problem.text")
    check(source)
    assert pairs(source) == [("inside", "1")]
    rows = [{"problem.text": "outside", "problem": {"text": "inside"}, "answer": "1"}]
    for source in (
        file(tmp_path / "q.jsonl", json.dumps(rows[0])),
        write_parquet(tmp_path / "q.parquet", rows),
    ):
        source = source.model_copy(update={"question": "problem.text"})
        check(source)
        assert pairs(source) == [("outside", "1")]


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    assert pairs(file(tmp_path / "p.jsonl", limit=1)) == EXPECTED[:1]


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ("0.10", "0.10"),
        ("1e400", "1e400"),
        ("12345678901234567890123", "12345678901234567890123"),
        ('"7"', "7"),
        ("true", "True"),
        ("null", None),
        ('"  "', None),
        ("NaN", None),
    ],
)
def test_an_answer_becomes_text_as_the_file_writes_it(
    tmp_path: Path, written: str, reference: str | None
) -> None:
    source = file(tmp_path / "p.jsonl", '{"question": "q", "answer": ' + written + "}")
    assert pairs(source) == [("q", reference)]


def test_parquet_numbers_become_text_and_missing_ones_none(tmp_path: Path) -> None:
    source = write_parquet(
        tmp_path / "p.parquet",
        [{"question": f"q{i}", "answer": value} for i, value in enumerate([0.1, float("nan"), None, 42.0])],
    )
    assert [reference for _, reference in pairs(source)] == ["0.1", None, None, "42.0"]


def test_an_empty_reference_column_means_that_references_are_unknown(tmp_path: Path) -> None:
    source = file(tmp_path / "p.jsonl", '{"question": "q"}', reference="")
    check(source)
    assert pairs(source) == [("q", None)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('{"answer": "2"}', "no question"),
        ('{"question": null, "answer": "2"}', "no question"),
        ('{"question": "", "answer": "2"}', "no question"),
        ('{"question": " \\n ", "answer": "2"}', "no question"),
        ('{"question": 12, "answer": "2"}', "the question is a number, not a text"),
        ('{"question": ["q"], "answer": "2"}', "the question is a list without a user message"),
        (
            '{"question": [{"role": "user", "content": [{"type": "image_url"}]}], "answer": "2"}',
            "the question has a part that is not text",
        ),
        ('{"question": "q", "answer": ["2", "3"]}', "2 answers in a list: name one, such as answer.0"),
        ('{"question": "q", "answer": "2", "question": "r"}', "the name 'question' occurs twice"),
        ('{"question": "q", "answer": {"a": 1, "a": 2}}', "the name 'a' occurs twice"),
        (
            '{"question": [{"role": "user", "content": "q", "content": "r"}], "answer": "2"}',
            "the name 'content' occurs twice",
        ),
        ('{"question": "q", "answer": {"a": 1}}', "the answer is an object, not a text or a number"),
        ('{"question": "q\\u0000", "answer": "2"}', "the question has a NUL character in it"),
        ('{"question": "q\\ud800", "answer": "2"}', "the question is not UTF-8"),
        ('{"question": "q", "answer": "\\ud800"}', "the answer is not UTF-8"),
        ('{"question": "q\0", "answer": "2"}', "not JSON: Invalid control character at column 16"),
        ('{"question": "q"', "not JSON: Expecting ',' delimiter at column 17"),
        ('["question"]', "not a JSON object"),
        ("17", "not a JSON object"),
        ("[" * 100_000, "JSON nested too deeply"),
        ('{"a":' * 100_000, "JSON nested too deeply"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line_and_the_others_are_read(
    tmp_path: Path, line: str, why: str
) -> None:
    source = file(tmp_path / "p.jsonl", LINES + line + "\n" + LINES)
    assert bad(source) == [f"p.jsonl:3: {why}"]
    assert len(everything(source)) == 5


def test_broken_utf8_loses_its_row_only(tmp_path: Path) -> None:
    source = file(tmp_path / "p.jsonl", LINES.encode() + b'{"question": "\xff"}\n' + LINES.encode())
    assert bad(source) == ["p.jsonl:3: not UTF-8 (byte 15)"]
    source = file(tmp_path / "p.csv", CSV.encode() + b"caf\xe9?,2\n" + b"last,1\n")
    assert bad(source) == ["p.csv:4: the question is not UTF-8"]
    assert len(everything(source)) == 4


def test_a_parquet_value_that_python_cannot_hold_loses_its_row_only(tmp_path: Path) -> None:
    days = pa.array([0, 10**7, 1], pa.date32())  # the second is after the year 9999
    columns = {"question": ["a", "b", "c"], "answer": ["1", "2", "3"], "day": days}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    source = FileSource(kind="file", path=str(tmp_path / "p.parquet"))
    assert [row.question for row in read(source, 0, 0) if isinstance(row, Problem)] == ["a", "c"]
    assert bad(source) == ["p.parquet row 2: a value cannot be read: date value out of range"]


def test_broken_utf8_in_parquet_loses_its_row_only(tmp_path: Path) -> None:
    text = pa.array([b"good", b"\xff\xfe", b"good too"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"question": text, "answer": ["1", "2", "3"]}), tmp_path / "p.parquet")
    source = FileSource(kind="file", path=str(tmp_path / "p.parquet"))
    assert bad(source) == ["p.parquet row 2: not UTF-8 (byte 1)"]
    assert len(everything(source)) == 3


def test_a_huge_line_loses_its_row_only(tmp_path: Path) -> None:
    huge = "x" * (RECORD_LIMIT + 1)
    source = file(tmp_path / "p.jsonl", LINES + huge + "\n" + LINES)
    assert bad(source) == ["p.jsonl:3: longer than 16 MB"]
    assert len(everything(source)) == 5
    source = file(tmp_path / "p.csv", CSV + f"{huge},2\nlast,1\n")
    assert bad(source) == ["p.csv:4: not CSV: longer than 16 MB"]
    assert len(everything(source)) == 4


def test_a_gzip_bomb_on_one_line_takes_little_memory(tmp_path: Path) -> None:
    source = file(
        tmp_path / "p.jsonl.gz", gzip.compress(LINES.encode(), mtime=0) + gzip.compress(b"x" * 2**26)
    )
    assert bad(source) == ["p.jsonl.gz:3: longer than 16 MB"]


def test_csv_cells_may_hold_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    with (tmp_path / "p.csv").open("w", newline="") as out:
        csv.writer(out).writerows([["question", "answer"], ['He said "1, 2"\nand?', "3"], ["next", "4"]])
    found = problems(FileSource(kind="file", path=str(tmp_path / "p.csv")))
    assert [p.question for p in found] == ['He said "1, 2"\nand?', "next"]
    assert [Path(p.origin).name for p in found] == ["p.csv:2", "p.csv:4"]


def test_csv_rows_that_do_not_fit_the_header_are_bad(tmp_path: Path) -> None:
    source = file(tmp_path / "p.csv", CSV + 'one\na,b,c\n"open quote,2\nlast,1\n')
    assert bad(source) == [
        "p.csv:4: 1 cells where the header has 2",
        "p.csv:5: 3 cells where the header has 2",
        "p.csv:6: not CSV: unexpected end of data",
    ]
    assert [row.origin.rpartition(":")[2] for row in good(source)] == ["2", "3", "7"]


def good(source: FileSource) -> list[Problem]:
    return [row for row in everything(source) if isinstance(row, Problem)]


def test_rows_after_an_unclosed_quote_are_read(tmp_path: Path) -> None:
    rows = [f"What is {i} + 1?,{i + 1}\n" for i in range(1000)]
    rows[10] = '"' + rows[10]
    rows[500] = '"' + rows[500]
    source = file(tmp_path / "p.csv", "question,answer\n" + "".join(rows))
    assert len(good(source)) + len(bad(source)) == 1000
    assert len(good(source)) >= 998 - 490  # lines between two such quotes are not read
    one = file(tmp_path / "q.csv", "question,answer\n" + "".join(rows[:500]))
    assert bad(one) == ["q.csv:12: not CSV: unexpected end of data"]
    assert len(good(one)) == 499


def test_each_line_inside_a_stray_quote_is_counted(tmp_path: Path) -> None:
    source = file(tmp_path / "p.csv", 'question,answer\n"a,1\nb,2\nc,3 "\nd,4\n')
    assert bad(source) == [
        "p.csv:2: 1 cells where the header has 2",
        "p.csv:3: merged into line 2 by a quote",
        "p.csv:4: merged into line 2 by a quote",
    ]
    assert [row.question for row in good(source)] == ["d"]


def test_a_duplicate_column_is_refused(tmp_path: Path) -> None:
    columns = [pa.array(["q"]), pa.array(["1"]), pa.array(["2"])]
    table = pa.Table.from_arrays(columns, names=["question", "answer", "answer"])
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(UserError, match="two columns are called 'answer'"):
        check(FileSource(kind="file", path=str(tmp_path / "p.parquet")))


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 1 + 1?"}]


@pytest.mark.parametrize("column", ["prompt", "prompt.1.content"])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_question_is_found_in_a_list_of_messages_and_an_answer_in_a_list_of_one(
    tmp_path: Path, column: str, suffix: str
) -> None:
    row = {"prompt": MESSAGES, "reward": {"truth": ["2"]}}
    path = tmp_path / f"p.{suffix}"
    if suffix == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    source = FileSource(kind="file", path=str(path), question=column, reference="reward.truth")
    check(source)
    assert pairs(source) == [("What is 1 + 1?", "2")]
    assert pairs(source.model_copy(update={"reference": "reward.truth.0"})) == [("What is 1 + 1?", "2")]


def test_a_question_in_parts_is_their_text(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "1 + 1?"}]
    row = {"question": [{"role": "user", "content": parts}], "answer": []}
    assert pairs(file(tmp_path / "p.jsonl", json.dumps(row))) == [("What is\n1 + 1?", None)]


@pytest.mark.parametrize("word", ["NA", "N/A", "n/a", "null", "-", "NaN", "<NA>", "#N/A", " NA "])
def test_a_placeholder_for_a_missing_answer_is_no_reference(tmp_path: Path, word: str) -> None:
    row = json.dumps({"question": "q", "answer": word})
    assert pairs(file(tmp_path / "p.jsonl", row)) == [("q", None)]
    if word not in ("nan", "NaN"):
        assert pairs(file(tmp_path / "p.jsonl", row, answer_type="text")) == [("q", word)]


def test_an_unclosed_csv_quote_ends_at_the_limit(tmp_path: Path) -> None:
    source = file(
        tmp_path / "p.csv", CSV + '"open' + ("x" * 99 + "\n") * (RECORD_LIMIT // 100 + 10) + "q,1\n"
    )
    found = everything(source)
    assert [type(row) for row in found[:3]] == [Problem, Problem, BadRow]
    assert isinstance(found[-1], Problem)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.txt", LINES, "unknown file format; supported are .jsonl, .json, .csv, .parquet"),
        ("p.jsonl", "", "no rows in it"),
        ("p.jsonl", "\n\n", "no rows in it"),
        ("p.json", "[]", "no rows in it"),
        ("p.csv", "question,answer\n", "no rows in it"),
        ("p.csv", "", "no rows in it"),
        ("p.csv", "question,question\n1,2\n", "the header names column 'question' twice"),
        ("p.jsonl", '{"q": 1, "a": {"b": 2, "c": 3}}', "no column 'question'; there are q, a.b, a.c"),
        ("p.csv", "question,reply\n1,2\n", "no column 'answer'; there are question, reply"),
        ("p.json", '{"data": []}', "not an array of objects"),
        (
            "p.json",
            LINES,
            "line 2: not JSON: Extra data at column 1; for one row per line use .jsonl",
        ),
        ("p.json", "[" * 100_000, "JSON nested too deeply"),
        ("p.jsonl.gz", LINES, "cannot be read: Not a gzipped file"),
        ("p.parquet", LINES, "not a readable Parquet file"),
    ],
)
def test_an_unusable_file_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    path = tmp_path / name
    assert refusal(file(path, content)).startswith(f"{path}: {said}")


def test_an_incomplete_gzip_file_is_refused_at_its_end(tmp_path: Path) -> None:
    source = file(tmp_path / "p.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9])
    with pytest.raises(UserError, match=r"p.jsonl.gz: cannot be read: Compressed file ended"):
        everything(source)


def test_parquet_without_the_column_or_without_rows_is_refused(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "p.parquet", [{"problem": {"text": "q"}, "answer": "1"}])
    assert refusal(source).endswith("no column 'question'; there are problem.text, answer")
    check(source.model_copy(update={"question": "problem.text"}))
    assert pairs(source.model_copy(update={"question": "problem.text"})) == [("q", "1")]
    source = write_parquet(tmp_path / "empty.parquet", [])
    assert refusal(source).endswith("no rows in it")


def test_a_path_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path / "*.jsonl", tmp_path, Path("/dev/zero")):
        assert refusal(FileSource(kind="file", path=str(path))) == f"{path}: no such file"


def test_an_optional_answer_may_be_absent_from_the_first_rows(tmp_path: Path) -> None:
    source = file(tmp_path / "p.jsonl", '{"question": "open"}\n' + LINES)
    check(source)
    assert pairs(source)[0] == ("open", None)


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    source = file(tmp_path / "p.jsonl")
    before = fingerprint(source)
    assert fingerprint(source) == before
    file(tmp_path / "p.jsonl", LINES + "\n")
    assert fingerprint(source) != before


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/my sums (1).jsonl.gz", "my-sums-1"),
        ("sums/*.jsonl", "sums"),
        ("train-*.parquet", "train"),
        ("sums.v2.csv", "sums.v2"),
        ("été.json", "t"),
    ],
)
def test_a_source_is_called_after_its_file(path: str, name: str) -> None:
    assert name_of(FileSource(kind="file", path=path)) == name


def test_other_sources_are_called_after_the_data_set_and_the_task() -> None:
    assert name_of(DatasetSource(kind="dataset", path="openai/gsm8k")) == "gsm8k"
    assert name_of(GymSource(kind="reasoning_gym", task="chain_sum", size=1)) == "chain_sum"
    assert name_of(GymSource(kind="reasoning_gym", task="chain_sum", size=1, name="sums")) == "sums"


def test_an_id_depends_on_the_text_but_not_on_white_space_or_composition() -> None:
    assert problem_id("caf\u00e9  is\n what?") == problem_id(" cafe\u0301 is what? ")
    assert problem_id("a") != problem_id("b")
    assert len(problem_id("a")) == 16


def test_the_split_depends_on_the_id_alone() -> None:
    ids = [problem_id(str(n)) for n in range(2000)]
    tenth = {i for i in ids if split_of(i, 0.1, seed=0) == "held_out"}
    assert 150 < len(tenth) < 250
    assert tenth < {i for i in ids if split_of(i, 0.2, seed=0) == "held_out"}
    assert tenth != {i for i in ids if split_of(i, 0.1, seed=1) == "held_out"}
    assert all(split_of(i, 0, seed=0) == "train" and split_of(i, 1, seed=0) == "held_out" for i in ids)


def test_a_problem_stays_in_its_split_when_its_source_grows(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(50)]
    some = file(tmp_path / "p.jsonl", "\n".join(map(json.dumps, rows[20:30])))
    before = {p.id: p.split for p in problems(some)}
    after = {p.id: p.split for p in problems(file(tmp_path / "p.jsonl", "\n".join(map(json.dumps, rows))))}
    assert set(before.values()) == {"train", "held_out"}
    assert before.items() <= after.items()


def test_a_source_can_be_given_a_split_as_a_whole(tmp_path: Path) -> None:
    assert {p.split for p in problems(file(tmp_path / "p.jsonl", split="held_out"))} == {"held_out"}
    assert {p.split for p in problems(file(tmp_path / "p.jsonl", split="train"))} == {"train"}


def test_a_saved_data_set_is_read_from_its_folder(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = [{**row, "more": {"n": 1}} for row in ROWS]
    Dataset.from_list(rows).save_to_disk(tmp_path / "one")
    one = DatasetSource(kind="dataset", path=str(tmp_path / "one"))
    check(one)
    assert pairs(one) == EXPECTED
    DatasetDict({"test": Dataset.from_list(rows)}).save_to_disk(tmp_path / "many")
    many = DatasetSource(kind="dataset", path=str(tmp_path / "many"), dataset_split="test")
    check(many)
    assert [p.origin for p in problems(many)] == [f"{tmp_path}/many test row {n}" for n in (1, 2)]
    assert refusal(many.model_copy(update={"dataset_split": "train"})).endswith(
        "no split 'train'; there are test"
    )
    assert refusal(one.model_copy(update={"question": "q"})).endswith(
        "no column 'q'; there are question, answer, more.n"
    )


def test_a_folder_of_files_is_read_as_a_data_set(tmp_path: Path) -> None:
    file(tmp_path / "train.jsonl")
    source = DatasetSource(kind="dataset", path=str(tmp_path), name="folder")
    check(source)
    assert pairs(source) == EXPECTED
    before = fingerprint(source)
    file(tmp_path / "train.jsonl", LINES + LINES)
    assert fingerprint(source) != before
    assert "no column 'q'" in refusal(source.model_copy(update={"question": "q"}))
    assert refusal(source.model_copy(update={"dataset_split": "test"})).startswith(f"data set {tmp_path}: ")


def test_an_unavailable_data_set_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (str(tmp_path / "empty"), "no such name!", str(file(tmp_path / "p.jsonl").path)):
        assert refusal(DatasetSource(kind="dataset", path=path)).startswith(f"data set {path}: ")
