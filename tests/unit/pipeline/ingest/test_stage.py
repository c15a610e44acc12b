"""The ingest stage as the command line runs it: shards, counts, splits, and reported rows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Recipe
from pipeline.engine.execute import DONE, execute
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.ingest.stage import INGEST, MAX_PRINTED
from pipeline.rows import Problem


def lines(path: Path, *rows: tuple[str, str | None] | str) -> dict[str, Any]:
    """A JSONL source: a row is a question and its answer, or a line as it stands."""
    path.write_text("".join(f"{_line(row)}\n" for row in rows))
    return {"kind": "file", "path": str(path), "name": path.stem}


def _line(row: tuple[str, str | None] | str) -> str:
    return row if isinstance(row, str) else json.dumps({"question": row[0], "answer": row[1]})


def recipe(*sources: dict[str, Any], **ingest: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "run": "test",
            "ingest": {"sources": sources, **ingest},
            "teacher": {"model": "m", "base_url": "http://localhost:1/v1"},
            "generate": {"prompt": "plain"},
            "student": {"model": "m"},
        }
    )


def ingest(run: Path, given: Recipe) -> tuple[list[Problem], dict[str, Any]]:
    """Runs the stage. Returns its problems and its report."""
    INGEST.check(given)
    assert execute(INGEST, given, run) == DONE
    output = Output(run / "ingest", Problem)
    manifest = output.manifest()
    assert manifest is not None
    report = manifest.report
    left_out = report["duplicates"] + report["conflicting"] + report["bad_rows"]
    assert report["read"] == report["problems"] + left_out
    assert report["problems"] == report["train"] + report["held_out"] == output.counts().rows
    return list(output.rows()), report


def many(count: int, start: int = 0) -> list[tuple[str, str | None]]:
    return [(f"What is {n} + 1?", str(n + 1)) for n in range(start, start + count)]


def test_problems_keep_their_order_and_are_split_into_shards(tmp_path: Path) -> None:
    given = recipe(
        lines(tmp_path / "a.jsonl", *many(7)), lines(tmp_path / "b.jsonl", *many(3, 7)), shard_size=4
    )
    rows, report = ingest(tmp_path / "run", given)
    assert [row.question for row in rows] == [question for question, _ in many(10)]
    shards = Output(tmp_path / "run" / "ingest", Problem).shards()
    assert [(shard.name, shard.count().rows) for shard in shards] == [
        ("shard-00000", 4),
        ("shard-00001", 4),
        ("shard-00002", 2),
    ]
    assert {name: counts["read"] for name, counts in report["by_source"].items()} == {"a": 7, "b": 3}


def test_the_same_recipe_writes_the_same_bytes(tmp_path: Path) -> None:
    given = recipe(lines(tmp_path / "a.jsonl", *many(7)), shard_size=4)
    for run in ("one", "two"):
        ingest(tmp_path / run, given)
    for name in ("shard-00000.parquet", "shard-00001.parquet"):
        one, two = (tmp_path / run / "ingest" / name for run in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_a_repeated_question_is_stored_once_and_a_contradicting_answer_is_reported(tmp_path: Path) -> None:
    rows = [("Who?", "me"), ("Who?", "me"), (" Who? ", "me"), ("Who?", None), ("Who?", "you"), ("Why?", "so")]
    problems, report = ingest(tmp_path / "run", recipe(lines(tmp_path / "a.jsonl", *rows)))
    assert [(p.question, p.reference) for p in problems] == [("Who?", "me"), ("Why?", "so")]
    assert (report["duplicates"], report["conflicting"]) == (3, 1)
    assert report["conflicts"] == [
        f"{tmp_path}/a.jsonl:5: left out, its question came before with another answer"
    ]


def test_references_that_come_after_their_question_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, known = (
        lines(tmp_path / "a.jsonl", ("Who?", None), ("Why?", "so")),
        [("Who?", "me"), ("Why?", "so")],
    )
    problems, report = ingest(tmp_path / "run", recipe(bare, lines(tmp_path / "b.jsonl", *known)))
    assert [(p.question, p.reference) for p in problems] == [("Who?", None), ("Why?", "so")]
    assert (report["duplicates"], report["late_references"]) == (2, {"b": 1})
    assert "source 'b': the references of 1 rows are not kept" in capsys.readouterr().err


def test_bad_rows_are_counted_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = ["{" for _ in range(MAX_PRINTED + 5)]
    problems, report = ingest(tmp_path / "run", recipe(lines(tmp_path / "a.jsonl", ("Who?", "me"), *broken)))
    assert (len(problems), report["bad_rows"], len(report["bad"])) == (1, MAX_PRINTED + 5, MAX_PRINTED + 5)
    assert report["bad"][0].startswith(f"{tmp_path}/a.jsonl:2: not JSON: ")
    assert capsys.readouterr().err.count("not JSON: ") == MAX_PRINTED


def test_a_question_of_a_held_out_source_never_reaches_training(tmp_path: Path) -> None:
    train = lines(tmp_path / "train.jsonl", *many(20)) | {"split": "train"}
    test = lines(tmp_path / "test.jsonl", *many(5)) | {"split": "held_out"}
    for number, sources in enumerate([(train, test), (test, train)]):
        problems, report = ingest(tmp_path / f"run{number}", recipe(*sources))
        held_out = {p.question for p in problems if p.split == "held_out"}
        assert held_out == {question for question, _ in many(5)}
        assert {p.source for p in problems if p.question in held_out} == {"test"}
        assert report["by_source"]["train"]["duplicates"] == 5
        assert len({p.id for p in problems}) == len(problems) == 20


def test_a_split_by_id_holds_out_the_same_problems_when_the_source_grows(tmp_path: Path) -> None:
    before, _ = ingest(tmp_path / "one", recipe(lines(tmp_path / "a.jsonl", *many(30)), held_out=0.3))
    after, _ = ingest(tmp_path / "two", recipe(lines(tmp_path / "a.jsonl", *many(60)[::-1]), held_out=0.3))
    splits = {p.id: p.split for p in after}
    assert {p.split for p in before} == {"train", "held_out"}
    assert all(splits[p.id] == p.split for p in before)


def test_a_source_without_one_good_row_is_refused_with_its_first_bad_row(tmp_path: Path) -> None:
    given = recipe(lines(tmp_path / "a.jsonl", *many(2)), lines(tmp_path / "b.jsonl", "{", "["))
    with pytest.raises(
        UserError, match=r"source 'b': none of its 2 rows is a problem; the first: .*b.jsonl:1: "
    ):
        ingest(tmp_path / "run", given)


def test_a_source_without_any_reference_gives_a_warning(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", ("Who?", None), ("Why?", ""))
    with pytest.raises(UserError, match="source 'a': no row has an answer in column 'answer'; if no answers"):
        ingest(tmp_path / "run", recipe(source))
    _, report = ingest(tmp_path / "other", recipe(source | {"reference": ""}))
    assert report["without_answer"] == 2


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", *many(2))
    with pytest.raises(UserError, match="two are called 'a'"):
        INGEST.check(recipe(source, source))


def test_a_changed_file_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = recipe(lines(tmp_path / "a.jsonl", *many(2)))
    ingest(tmp_path / "run", given)
    ingest(tmp_path / "run", given)
    lines(tmp_path / "a.jsonl", *many(3))
    assert len(ingest(tmp_path / "run", given)[0]) == 3
    assert "ingest: content.0.files" in capsys.readouterr().err


def test_an_interrupted_ingest_is_written_again(tmp_path: Path) -> None:
    given = recipe(lines(tmp_path / "a.jsonl", *many(7)), shard_size=4)
    whole, _ = ingest(tmp_path / "whole", given)
    ingest(tmp_path / "interrupted", given)
    folder = tmp_path / "interrupted" / "ingest"
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(
        json.dumps(manifest | {"shards": None, "digests": None, "report": {}})
    )
    os.rename(folder / "shard-00001.parquet", folder / "shard-00002.parquet")
    again, _ = ingest(tmp_path / "interrupted", given)
    assert again == whole
