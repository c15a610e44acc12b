"""What the page is told: every trace once, in any order; filters, words, joined columns, open shards."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.engine.journal import done_line
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.inspect.run import Run
from pipeline.rows import Trace
from pipeline.select.marks import Marked, Noted, append
from pipeline.view import queries
from pipeline.view.queries import Wanted, words_of
from tests.small_run import PROBLEMS, SAMPLES, SHARDS, write_run

TRACES = SHARDS * PROBLEMS * SAMPLES


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("view") / "run")


def ids(run: Run, **wanted: object) -> list[str]:
    return [row["id"] for row in queries.page(run, Wanted.model_validate({"limit": 99} | wanted))]


@pytest.mark.parametrize("sort", ["", "source", "characters", "split", "mark"])
def test_pages_have_every_trace_once_sorted_by_any_column(run: Run, sort: str) -> None:
    pages = [ids(run, sort=sort, down=True, at=at, limit=13) for at in range(0, TRACES, 13)]
    found = [id for page in pages for id in page]
    assert sorted(found) == sorted(trace.id for trace in run.traces)
    assert queries.count(run, Wanted()) == TRACES


def test_the_order_follows_the_column(run: Run) -> None:
    rows = queries.page(run, Wanted(sort="completion_tokens", down=True, limit=TRACES))
    tokens = [row["completion_tokens"] for row in rows]
    assert tokens == sorted(tokens, reverse=True)
    assert tokens[0] > tokens[-1]


def test_all_words_must_occur_in_any_order_and_case(run: Run) -> None:
    assert words_of('one "two words" "open') == ["one", "two words", "open"]
    found = ids(run, q="IS what 1 2?")
    expected = [t.id for t in run.traces if all(word in text_of(t) for word in ("is", "what", "1", "2?"))]
    assert sorted(found) == sorted(expected)
    assert 0 < len(found) < TRACES
    assert ids(run, q='"is what"') == []
    assert len(ids(run, q="100%_'; drop")) == 0


def text_of(trace: Trace) -> str:
    texts = (trace.id, trace.problem_id, trace.question, trace.reference, trace.reasoning, trace.response)
    return "\n".join(map(str, texts)).lower()


def test_filters_narrow_by_outcome_verdict_length_split_and_sql(run: Run) -> None:
    problems = SHARDS * PROBLEMS
    assert len(ids(run, outcome="kept")) == problems
    assert len(ids(run, rule="correct")) == TRACES - problems
    assert len(ids(run, rule="correct", verdict="passed")) == problems
    assert len(ids(run, min_tokens=101, max_tokens=101)) == problems
    assert ids(run, split="train") == ids(run, outcome="kept")
    assert len(ids(run, where="columns->>'level' = '2' and sample > 0")) == SHARDS * (SAMPLES - 1)
    assert len(ids(run, stage="filter", source="others", reason="correct: incorrect")) == SHARDS * 2


def test_the_numbers_to_choose_from_add_up(run: Run) -> None:
    found = queries.facets(run, "filter")
    assert found["total"] == TRACES
    assert dict(found["values"]["outcome"]) == {"kept": TRACES // SAMPLES, "rejected": TRACES * 2 // SAMPLES}
    assert sum(n for _, n in found["values"]["source"]) == TRACES
    assert found["rules"] == ["finished", "correct"]
    assert found["running"] == []


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"sort": "id; drop"}, "no column"),
        ({"where": "1 = 1) or (true"}, "where"),
        ({"where": "id in (select 1)"}, "query of its own"),
        ({"outcome": "keptt"}, "'kept'"),
        ({"stage": "../other"}, "no stage"),
    ],
)
def test_a_mistake_is_one_line(run: Run, wanted: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        ids(run, **wanted)
    assert "\n" not in str(error.value)


def test_unknown_parameters_are_refused() -> None:
    with pytest.raises(ValidationError):
        Wanted.model_validate({"sorted": "id"})


def test_a_trace_is_whole_and_an_unknown_one_is_named(run: Run) -> None:
    first = next(iter(run.traces))
    shown = queries.trace(run, Wanted(id=first.id))
    assert (shown["reasoning"], shown["correct"]) == (first.reasoning, "passed")
    assert shown["facts"]["split"] == "train"
    with pytest.raises(UserError, match="no trace 'nothing'"):
        queries.trace(run, Wanted(id="nothing"))


def test_marks_and_notes_are_shown_sorted_and_counted(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    one, two = [trace.id for trace in run.traces][:2]
    append(run.path, Marked(trace=two, mark="drop"))
    append(run.path, Noted(trace=one, note="look"))
    assert ids(run, mark="drop") == [two]
    assert ids(run, where="note is not null") == [one]
    assert queries.facets(run, "filter")["values"]["mark"] == [["drop", 1]]
    assert queries.trace(run, Wanted(id=two))["mark"] == "drop"
    append(run.path, Marked(trace=two, mark="drop", text="of another text"))
    assert queries.trace(run, Wanted(id=two))["mark"] is None


def test_two_runs_show_the_samples_and_scores_of_a_problem(run: Run, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", kept=2)
    problem = next(iter(run.traces)).problem_id
    mine, theirs = queries.problem([run, other], Wanted(id=problem))
    assert [sum(t["outcome"] == "kept" for t in side["samples"]) for side in (mine, theirs)] == [1, 2]
    assert [side["scores"][0]["correct"] for side in (mine, theirs)] == [1, 2]
    (score,) = queries.about([run, other])["scores"]
    assert (score["a"], score["b"]) == (pytest.approx(1 / SAMPLES), pytest.approx(2 / SAMPLES))
    assert queries.problem([run, other], Wanted(id="unknown"))[0] == {"samples": [], "scores": []}


def test_rows_of_a_journal_appear_as_soon_as_they_are_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    traces = list(run.traces)
    output = Output(run.path / "generate", Trace)
    manifest, shard = output.manifest(), output.shards()[0]
    assert manifest is not None
    output.save(manifest.model_copy(update={"digests": None}))
    shard.path.unlink()
    first, second = traces[:2]
    for number, trace in enumerate((first, second), 1):
        shard.append([done_line(trace)])
        assert queries.count(run, Wanted()) == TRACES - PROBLEMS * SAMPLES + number
    assert ids(run)[:2] == [first.id, second.id]
    assert queries.trace(run, Wanted(id=second.id, shard=shard.name))["response"] == second.response
