"""Marks and notes: the last line of a trace counts, and select's result follows the marks."""

from pathlib import Path

import pytest

from pipeline.engine.changed_settings import manifest_of
from pipeline.engine.stage import Job
from pipeline.errors import UserError
from pipeline.select.choices import prepare
from pipeline.select.marks import (
    MARKS,
    NOTES,
    Marked,
    Noted,
    append,
    marks_hash,
    read_marks,
    read_notes,
    text_hash,
)
from pipeline.select.stage import SELECT, report, work
from tests.small_run import write_filtered


def test_the_last_mark_and_the_last_note_of_a_trace_count(tmp_path: Path) -> None:
    for mark in ("keep", "drop"):
        append(tmp_path, Marked.model_validate({"trace": "a", "mark": mark}))
    append(tmp_path, Marked(trace="b", mark="keep"))
    append(tmp_path, Marked(trace="b", mark=None))
    append(tmp_path, Noted(trace="a", note="two\nlines"))
    assert read_marks(tmp_path / MARKS) == {"a": Marked(trace="a", mark="drop")}
    assert read_notes(tmp_path / NOTES) == {"a": "two\nlines"}
    assert read_marks(tmp_path / "absent.jsonl") == {}


def test_a_mark_that_is_changed_back_leaves_the_hash_as_it_was(tmp_path: Path) -> None:
    append(tmp_path, Marked(trace="a", mark="keep"))
    before = marks_hash(tmp_path / MARKS)
    append(tmp_path, Marked(trace="a", mark="drop"))
    assert marks_hash(tmp_path / MARKS) != before
    append(tmp_path, Marked(trace="a", mark="keep"))
    assert marks_hash(tmp_path / MARKS) == before


def test_a_line_that_is_no_mark_is_named(tmp_path: Path) -> None:
    (tmp_path / MARKS).write_text('{"trace": "a", "mark": "keep"}\n{"trace": "b", "mark": "yes"}\n')
    with pytest.raises(UserError, match=r"keep.jsonl, line 2: .*'keep' or 'drop'"):
        read_marks(tmp_path / MARKS)


def test_select_takes_only_marked_traces_and_its_manifest_changes_with_the_marks(tmp_path: Path) -> None:
    marks = {"path": str(tmp_path / "keep.jsonl"), "use": "only"}
    run = write_filtered(tmp_path / "run", kept=2, select={"validation": 0, "marks": marks})
    with pytest.raises(UserError, match=r"no such file; `retort view RUN` writes RUN/keep.jsonl"):
        SELECT.check(run.recipe)
    kept = [trace.id for trace in run.traces.where(outcome="kept")]
    append(tmp_path, Marked(trace=kept[5], mark="keep"))
    job = Job(SELECT, run.recipe, run.path)
    job.output.save(before := manifest_of(job))
    job.prepared = prepare(job)
    work(job, job.output.shards())
    assert [row.id for row in job.output.rows()] == [kept[5]]
    assert report(job)["marks"] == len(kept) - 1
    assert report(job)["marks_of_other_texts"] == 0
    append(tmp_path, Marked(trace=kept[6], mark="keep"))
    assert manifest_of(job).identity != before.identity


def test_a_mark_on_another_text_of_the_same_id_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    marks = {"path": str(tmp_path / "keep.jsonl"), "use": "only"}
    run = write_filtered(tmp_path / "run", kept=2, select={"validation": 0, "marks": marks})
    one, two = list(run.traces.where(outcome="kept"))[:2]
    append(tmp_path, Marked(trace=one.id, mark="keep", text=text_hash(one.reasoning, one.response)))
    append(tmp_path, Marked(trace=two.id, mark="keep", text=text_hash("another", two.response)))
    job = Job(SELECT, run.recipe, run.path)
    job.output.save(manifest_of(job))
    job.prepared = prepare(job)
    work(job, job.output.shards())
    assert [row.id for row in job.output.rows()] == [one.id]
    assert report(job)["marks_of_other_texts"] == 1
    assert "select: 1 marks do not count: their traces had another text" in capsys.readouterr().err
