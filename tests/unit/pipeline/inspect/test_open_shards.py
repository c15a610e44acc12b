"""Rows are read before their shard is sealed, and each of them once."""

import json
from pathlib import Path

import pytest

from pipeline.engine.journal import done_line, failed_line
from pipeline.engine.shard import Shard
from pipeline.errors import UserError
from pipeline.inspect import show, why
from pipeline.inspect.run import Run
from pipeline.report.build import gather
from pipeline.rows import Row
from tests.small_run import HOSTILE, PROBLEMS, SAMPLES, SHARDS, write_run

TRACES = SHARDS * PROBLEMS * SAMPLES


def reopened(run: Run, shards: int, unfiltered: bool = True, empty: bool = False) -> list[Shard]:
    """Turns the last shards of traces back into journals, as after an interruption."""
    output = run.output("generate")
    manifest = output.manifest()
    assert manifest is not None
    (output.folder / "manifest.json").unlink()
    output.save(manifest.model_copy(update={"digests": None}))
    again = output.shards()[-shards:]
    for shard in again:
        rows = list(shard.rows())
        shard.path.unlink()
        shard.append([*([] if empty else map(done_line, rows)), failed_line("other", "no answer")])
    if unfiltered:
        for path in run.output("filter").folder.iterdir():
            path.unlink()
    return again


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "small")


def test_rows_of_journals_are_traces_too(run: Run) -> None:
    before = {t.id: t for t in run.rows("generate")}
    reopened(run, 2)
    assert {t.id: t for t in run.traces} == before
    assert len(run.traces) == TRACES == len(run.traces.where(outcome="unfiltered"))
    assert len(run.sample(4)) == 4
    assert run.traces.to_arrow().num_rows == TRACES == len(run.traces.to_pandas())
    assert len(run.verdicts) == 0
    counted = "select count(*), count(distinct id), max(length(response)) from traces"
    assert run.sql(counted).fetchall()[0][:2] == (TRACES, TRACES)
    assert run.sql("select * from traces").fetchall()
    assert "in 3 shards, 2 of them open: rows so far" in repr(run.traces)
    assert run.so_far() == "36 traces so far: 12 in 1 sealed shards and 24 in 2 that are open"


def test_a_row_that_is_sealed_and_in_a_journal_counts_once(run: Run) -> None:
    shard = run.output("generate").shards()[0]
    shard.append(done_line(row) for row in shard.rows())
    assert len(run.traces) == TRACES == len(list(run.traces))
    assert run.sql("select count(*) from traces").fetchall() == [(TRACES,)]


def test_an_open_shard_does_not_hide_the_verdicts_on_the_others(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    reopened(run, 1, unfiltered=False)
    (run.output("filter").folder / "manifest.json").unlink()
    run.output("filter").shards()[-1].path.unlink()
    assert {t.outcome for t in run.traces} == {"kept", "rejected", "unfiltered"}
    why.print_why(why.why_of(run, "filter", 0))
    assert "so far: 12 traces are not filtered yet" in capsys.readouterr().out


def test_show_finds_traces_and_problems_in_journals(run: Run) -> None:
    reopened(run, SHARDS)
    shown = show.first(run, None, None, None, None, 100)
    assert {row.stage for row in shown.rows} == {"generate"}
    assert len(shown.rows) == TRACES
    problem = list(run.problems)[-1]
    assert len(show.by_id(run, None, problem.id).rows) == 1 + SAMPLES
    assert len(show.by_id(run, None, f"{problem.id}-0-0001").rows) == 1
    with pytest.raises(UserError, match="nothing is filtered yet"):
        show.first(run, None, "kept", None, None, 1)


def test_why_previews_the_rules_and_stores_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    reopened(run, 2)
    files = sorted(run.path.rglob("*"))
    found = why.why_of(run, "filter", 2)
    assert (found.preview_of, found.funnel.traces) == (TRACES, TRACES)
    assert (
        found.funnel.kept + sum([*found.funnel.rejected.values(), *found.funnel.undecided.values()]) == TRACES
    )
    assert "correct" in found.funnel.rules
    assert all(0 < len(examples) <= 2 for examples in found.examples.values())
    why.print_why(found)
    out = capsys.readouterr().out
    assert "preview of 36 traces so far: nothing is filtered yet, nothing is stored" in out
    assert HOSTILE not in out
    assert sorted(run.path.rglob("*")) == files


def test_a_preview_is_limited_and_counts_the_omitted_traces(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reopened(run, 1)
    recipe = json.loads((run.path / "recipe.json").read_text())
    recipe["filter"]["duplicates"] = {}
    recipe["filter"]["difficulty"] = {"low": 0.1, "high": 0.9}
    (run.path / "recipe.json").write_text(json.dumps(recipe))
    monkeypatch.setattr(why, "PREVIEWED", 10)
    why.print_why(why.why_of(Run(run.path), "filter", 1))
    out = capsys.readouterr().out
    assert "preview of 10 of the 36 traces so far" in out
    assert "left out: difficulty, duplicates" in out


def test_why_reports_a_run_without_traces(run: Run) -> None:
    reopened(run, SHARDS, empty=True)
    with pytest.raises(UserError, match="there is no trace yet"):
        why.why_of(run, "filter", 1)


def test_the_report_counts_what_is_open(run: Run) -> None:
    reopened(run, 2)
    data = gather(run)
    assert data["so_far"] == run.so_far()
    assert sum(traces for _, *some in data["sources"]["rows"] for traces in some) == TRACES
    assert {trace["outcome"] for trace in data["data"]["traces"]} == {"unfiltered"}


class OlderTrace(Row):
    id: str
    question: str


def test_a_journal_of_another_release_is_reported_in_one_line(run: Run) -> None:
    (shard,) = reopened(run, 1)
    shard.append([done_line(OlderTrace(id="a", question="b"))])
    with pytest.raises(UserError, match="of another release, has rows without"):
        list(run.traces)


def test_reasons_are_known_before_the_filter_stage_is_complete(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo")
    output = run.output("filter")
    found = output.manifest()
    assert found is not None
    output.save(found.model_copy(update={"digests": None, "report": {}}))  # a rule rejected nearly all
    assert run.reasons("correct") == ["correct: incorrect"]
    assert len(run.sample(2, rejected_by="correct")) == 2
