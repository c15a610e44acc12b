import pytest

from pipeline.config.select import Select
from pipeline.errors import UserError
from pipeline.rows import Trace, TraceScore
from pipeline.select.choose import choose
from pipeline.select.marks import Mark
from pipeline.select.stage import LEFT_OUT, SELECT
from tests import tiny_student
from tests.unit.pipeline.select.test_stage import trace

LONG = "First I take the number two and then I add the other number two to it, which gives the number four."


def chosen(
    traces: list[Trace], scores: list[TraceScore] | None = None, **settings: object
) -> tuple[list[str], dict[str, int]]:
    report = dict.fromkeys((*LEFT_OUT, "reasoning_not_taught"), 0)
    by_id = {score.id: score for score in scores or ()}
    found = [t.id for t in choose(traces, Select.model_validate(settings), report, by_id)]
    return found, {name: n for name, n in report.items() if n}


def score(id: str, ratio: float | None, naturalness: float | None) -> TraceScore:
    return TraceScore(
        id=id, problem_id="a", source="s", teacher="t", tokens=9, surprisal=1.0, rank=1.0, ratio=ratio,
        steps=1, naturalness=naturalness,
    )  # fmt: skip


TRACES = [trace("a", n, f"reasoning {n}") for n in range(4)]
SCORES = [score("a-0", 3.0, -0.5), score("a-1", 2.0, -0.9), score("a-2", 1.0, -0.7)]


def test_the_highest_naturalness_or_the_lowest_ratio_is_preferred_and_unscored_traces_come_last() -> None:
    assert chosen(TRACES, SCORES, prefer="natural")[0] == ["a-0", "a-2", "a-1", "a-3"]
    assert chosen(TRACES, SCORES, prefer="ratio", per_problem=2) == (["a-2", "a-1"], {"over_per_problem": 2})
    unknown = [score("a-0", None, None), *SCORES[1:]]
    assert chosen(TRACES, unknown, prefer="ratio")[0] == ["a-2", "a-1", "a-0", "a-3"]


def test_reasoning_that_is_nearly_that_of_a_chosen_trace_is_left_out() -> None:
    traces = [
        trace("a", 0, LONG),
        trace("a", 1, LONG + " So it is four."),
        trace("a", 2, "Two and two is four, as everyone has known since school."),
    ]
    assert chosen(traces, diverse=0.7) == (["a-0", "a-2"], {"near_identical": 1})
    assert chosen(traces)[0] == ["a-0", "a-1", "a-2"]
    # What is preferred stays, and what is left out takes the place of nothing
    assert chosen(traces[::-1], diverse=0.7, per_problem=2)[0] == ["a-2", "a-1"]


def test_the_response_is_compared_where_the_reasoning_is_not_taught() -> None:
    traces = [trace("a", 0, "x", LONG), trace("a", 1, "something else", LONG + " Done.")]
    assert chosen(traces, diverse=0.7, reasoning="none")[1] == {
        "near_identical": 1,
        "reasoning_not_taught": 1,
    }


@pytest.mark.parametrize(
    ("prefer", "table", "message"),
    [
        ("natural", None, r"select\.prefer = 'natural' needs a table \[score\]"),
        ("ratio", None, r"select\.prefer = 'ratio' needs a table \[score\]"),
        ("natural", {"local": False}, r"needs score\.local = true"),
    ],
)
def test_scores_that_would_be_missing_are_refused_before_any_work(
    prefer: str, table: dict[str, bool] | None, message: str
) -> None:
    given = {"select": {"prefer": prefer}, "score": table}
    recipe = tiny_student.recipe()
    with pytest.raises(UserError, match=message):
        SELECT.check(type(recipe).model_validate(recipe.model_dump() | given))


MARKED: dict[str, Mark] = {"a-1": "drop", "a-3": "keep"}


@pytest.mark.parametrize(
    ("use", "ids", "left_out"),
    [
        ("drop", ["a-0", "a-2", "a-3"], {"marks": 1}),
        ("prefer", ["a-3", "a-0", "a-2"], {"marks": 1}),
        ("only", ["a-3"], {"marks": 3}),
    ],
)
def test_marks_of_people_drop_prefer_or_choose_traces(
    use: str, ids: list[str], left_out: dict[str, int]
) -> None:
    select = Select.model_validate({"marks": {"path": "keep.jsonl", "use": use}})
    report = dict.fromkeys(LEFT_OUT, 0) | {"reasoning_not_taught": 0}
    assert [trace.id for trace in choose(TRACES, select, report, marks=MARKED)] == ids
    assert {name: n for name, n in report.items() if n} == left_out
