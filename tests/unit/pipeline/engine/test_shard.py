import json
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.arrow_schema import arrow_schema
from pipeline.engine.journal import done_line, failed_line
from pipeline.engine.shard import Counts, Shard
from pipeline.rows import Problem, Trace


def problem(name: str) -> Problem:
    return Problem(
        id=name,
        question=f"{name}?",
        reference="1",
        answer_type="math",
        source="s",
        split="train",
        origin="here:1",
    )


def shard(tmp_path: Path) -> Shard:
    return Shard(tmp_path, "shard-00000", Problem, {"stage": "ingest"})


def test_rows_come_back_from_parquet_as_they_went_in(tmp_path: Path) -> None:
    at = shard(tmp_path)
    at.append([done_line(problem("b")), done_line(problem("ä\n\u2028"))])
    at.seal(["ä\n\u2028", "b"])
    assert list(at.rows()) == [problem("ä\n\u2028"), problem("b")]
    assert not at.journal.exists()
    assert at.count() == Counts(rows=2, shards=1, sealed=1)


def test_the_sealed_file_names_its_lineage_and_keeps_the_declared_schema(tmp_path: Path) -> None:
    at = shard(tmp_path)
    at.seal([])
    schema = pq.read_schema(at.path)
    assert json.loads(schema.metadata[b"retort"]) == {"stage": "ingest"}
    assert schema.remove_metadata() == arrow_schema(Problem)


def test_the_item_of_a_torn_last_line_is_not_done(tmp_path: Path) -> None:
    at = shard(tmp_path)
    at.append([done_line(problem("a")), done_line(problem("b"))])
    at.journal.write_bytes(at.journal.read_bytes()[:-10])
    assert at.read_journal().rows.keys() == {"a"}
    at.repair()
    at.append([done_line(problem("b"))])
    assert at.read_journal().rows.keys() == {"a", "b"}


def test_repair_keeps_complete_lines_of_any_length(tmp_path: Path) -> None:
    at = shard(tmp_path)
    at.append([done_line(problem("x" * 200_000))])
    at.repair()
    assert len(at.read_journal().rows.keys()) == 1
    with at.journal.open("ab") as file:
        file.write(b"y" * 200_000)
    at.repair()
    assert len(at.read_journal().rows.keys()) == 1
    at.journal.write_bytes(b"no newline")
    at.repair()
    assert at.journal.read_bytes() == b""


def test_an_unreadable_line_loses_only_itself(tmp_path: Path) -> None:
    at = shard(tmp_path)
    at.append([done_line(problem("a")), b"\x00\x00\x00\n", b'{"key":"c","ro\n', done_line(problem("b"))])
    assert at.read_journal().rows.keys() == {"a", "b"}


def test_a_failure_is_recorded_until_the_item_is_done(tmp_path: Path) -> None:
    at = shard(tmp_path)
    at.append([failed_line("a", "no answer"), failed_line("b", "no answer")])
    assert at.read_journal().failed == {"a": "no answer", "b": "no answer"}
    at.append([done_line(problem("a"))])
    assert at.read_journal().failed == {"b": "no answer"}
    assert at.count() == Counts(rows=1, failed=1, shards=1)


def test_a_partly_written_parquet_file_is_no_sealed_shard(tmp_path: Path) -> None:
    at = shard(tmp_path)
    at.append([done_line(problem("a"))])
    at.path.with_suffix(".tmp").write_bytes(b"PAR1 half")
    assert not at.sealed
    at.seal(["a"])
    assert [p.id for p in at.rows()] == ["a"]


def test_nested_and_optional_fields_have_declared_arrow_types() -> None:
    schema = arrow_schema(Trace)
    assert schema.field("reasoning").nullable
    assert not schema.field("response").nullable
    assert str(schema.field("sampling").type.field("temperature").type) == "double"
    assert schema.field("verdicts").type.value_type.field("reason").name == "reason"
