"""The ranking of teachers and sources, from the folder of a small run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.score import Scoring
from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.inspect import teachers
from pipeline.inspect.costs import Cost
from pipeline.inspect.run import Run, open_run
from pipeline.inspect.teachers import teachers_of
from pipeline.rows import TraceScore
from tests.small_run import PROBLEMS, SAMPLES, SHARDS, write_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "small", kept=2)


def add_scores(run: Run) -> Run:
    """Scores of all kept traces: in "others" rank 4 and surprisal 2, else rank 3 and 1; one is too long."""
    kept = list(run.traces.where(outcome="kept"))
    rows = [_score(t.id, t.problem_id, t.source, too_long=n == 0) for n, t in enumerate(kept)]
    recipe = run.recipe.model_copy(update={"score": Scoring()})
    (run.path / "recipe.json").write_text(recipe.model_dump_json())
    output = Output(run.path / "score", TraceScore)
    settings = {"model": "org/student"}
    output.save(Manifest(stage="score", version=1, settings=settings, inputs={}, shards=("shard-00000",)))
    output.write("shard-00000", rows)
    output.finish()
    return open_run(run.path)


def _score(id: str, problem: str, source: str, too_long: bool) -> TraceScore:
    surprisal = 2.0 if source == "others" else 1.0
    values = {"surprisal": surprisal, "rank": surprisal + 2, "ratio": 1 + 2 / surprisal, "steps": 2}
    values |= {"naturalness": -surprisal / 2}
    same = {"id": id, "problem_id": problem, "source": source, "teacher": "fake", "tokens": 100}
    return TraceScore.model_validate(same | (dict.fromkeys(values) if too_long else values))


def test_before_scoring_teachers_have_their_yield_and_cost(run: Run) -> None:
    document = teachers_of(run)
    (line,) = document.teachers
    assert (line.name, line.traces) == ("fake", SHARDS * PROBLEMS * SAMPLES)
    assert line.kept == 2 * SHARDS * PROBLEMS
    assert line.suits is None
    assert line.per_kept == pytest.approx(line.spend / line.kept)  # type: ignore[operator]
    assert "score" not in run.stages


def test_scores_are_means_over_problems_and_the_lowest_ratio_comes_first(run: Run) -> None:
    document = teachers_of(add_scores(run))
    assert [line.name for line in document.sources] == ["others", "sums"]
    (fake,), (others, sums) = document.teachers, document.sources
    assert fake.suits
    assert others.suits
    assert sums.suits
    assert (fake.suits.model, fake.suits.problems) == ("org/student", SHARDS * PROBLEMS)
    assert fake.suits.traces == 2 * SHARDS * PROBLEMS - 1
    share = 1 / PROBLEMS  # of the problems, from "others"
    surprisal = 2 * share + (1 - share)
    assert fake.suits.surprisal.mean == pytest.approx(surprisal)
    assert fake.suits.ratio
    assert fake.suits.naturalness
    assert fake.suits.ratio.mean == pytest.approx((4 * share + 3 * (1 - share)) / surprisal)
    assert fake.suits.naturalness.mean == pytest.approx(-surprisal / 2)
    assert fake.suits.ratio.low < fake.suits.ratio.mean < fake.suits.ratio.high
    assert others.suits.ratio
    assert others.suits.ratio.mean == pytest.approx(2)


def test_the_tables_fit_into_80_columns(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    document = teachers_of(add_scores(run))
    long = document.teachers[0].model_copy(update={"name": "org/a-model-with-a-very-long-name-7B"})
    teachers.print_teachers(document.model_copy(update={"teachers": (long,)}))
    text = capsys.readouterr().out
    assert "...very-long-name-7B" in text
    assert max(map(len, text.splitlines())) <= 80


def test_scores_can_be_asked_for_in_sql(run: Run) -> None:
    rows = add_scores(run).sql("select source, count(surprisal) from trace_scores group by 1 order by 1")
    assert rows.fetchall() == [("others", 2 * SHARDS - 1), ("sums", 2 * SHARDS * (PROBLEMS - 1))]


def test_spent_per_kept_trace_leaves_out_teachers_without_a_price() -> None:
    parts = [
        Cost(teacher=name, source="s", traces=100, prompt_tokens=1, completion_tokens=1, uncounted=0,
             spend=spend, kept=kept)
        for name, spend, kept in (("paid", 10.0, 10), ("local", None, 90))
    ]  # fmt: skip
    line = teachers._line("s", parts, None)
    assert (line.spend, line.kept, line.per_kept) == (10.0, 100, 1.0)
