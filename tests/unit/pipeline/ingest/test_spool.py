"""Given traces are sorted by the shard and the order of their problems, however they were read."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.engine.shard import Shard
from pipeline.ingest.spool import FOLDER, Spool, given_traces, shard_name, sort, unsorted
from pipeline.ingest.traces import GivenSample
from pipeline.rows import Problem, Trace

SIZE = 3


def problem(n: int, split: str = "train") -> Problem:
    return Problem.model_validate(
        {
            "id": f"{n:016x}",
            "question": f"What is {n}?",
            "reference": str(n),
            "answer_type": "number",
            "source": "problems",
            "split": split,
            "origin": f"p.jsonl:{n}",
        }
    )


def given(n: int, number: int) -> GivenSample:
    return GivenSample("other", f"Thought {number}\n of {n}.", f"It is {n}.", "stop", 7, f"{n}-{number}")


def shards(folder: Path, problems: list[Problem]) -> list[Shard]:
    found = []
    for number in range(0, len(problems), SIZE):
        shard = Shard(folder, shard_name(number // SIZE), Problem, {})
        shard.write(p.model_dump() for p in problems[number : number + SIZE])
        found.append(shard)
    return found


@pytest.mark.parametrize("buffer", [0, 300, 10**6])
def test_traces_in_any_order_are_sorted_and_keep_the_order_within_a_problem(
    tmp_path: Path, buffer: int
) -> None:
    problems = [problem(n) for n in range(8)]
    spool = Spool(tmp_path / FOLDER, SIZE, buffer)
    places = [(n, number) for n in range(8) for number in range(4)]
    random.Random(0).shuffle(places)
    for n, number in places:
        spool.add(n, problems[n].id, "given", given(n, number))
    spool.flush()
    written: list[Trace] = []
    for shard in shards(tmp_path, problems):
        found = sort(shard)
        assert found == {"given": Counter(traces=given_traces(shard).count().rows)}
        written += given_traces(shard).rows()
        assert not unsorted(tmp_path / FOLDER, shard.name).exists()
    expected = [place for n in range(8) for place in places if place[0] == n]
    assert [t.reasoning for t in written] == [f"Thought {number}\n of {n}." for n, number in expected]
    assert [t.sample for t in written] == [0, 1, 2, 3] * 8
    assert [t.id for t in written[:4]] == [f"{0:016x}-given-{n}-{number}" for n, number in expected if n == 0]
    assert {(t.source, t.teacher, t.completion_tokens) for t in written} == {("given", "other", 7)}
    assert [t.question for t in written[::4]] == [p.question for p in problems]


def test_each_trace_keeps_the_columns_of_its_own_row(tmp_path: Path) -> None:
    problems = [problem(0).model_copy(update={"columns": '{"label":1}'})]
    spool = Spool(tmp_path / FOLDER, SIZE)
    labels = ['{"label":1}', '{"label":0}', None]
    for number, columns in enumerate(labels):
        spool.add(0, problems[0].id, "given", replace(given(0, number), columns=columns))
    spool.flush()
    (shard,) = shards(tmp_path, problems)
    sort(shard)
    assert [trace.columns for trace in given_traces(shard).rows()] == labels


def test_a_trace_keeps_its_id_when_another_one_comes_before_it(tmp_path: Path) -> None:
    ids = []
    for name, numbers in (("before", (1,)), ("after", (0, 1))):
        spool = Spool(tmp_path / name / FOLDER, SIZE)
        for number in numbers:
            spool.add(0, problem(0).id, "given", given(0, number))
        spool.flush()
        (shard,) = shards(tmp_path / name, [problem(0)])
        sort(shard)
        ids.append(
            [trace.id for trace in given_traces(shard).rows() if trace.reasoning == "Thought 1\n of 0."]
        )
    assert ids[0] == ids[1]


def test_repeated_traces_and_those_of_held_out_problems_are_counted_and_left_out(tmp_path: Path) -> None:
    problems = [problem(0), problem(1, "held_out"), problem(2)]
    spool = Spool(tmp_path / FOLDER, SIZE)
    for source in ("one", "two"):
        for n in (0, 1):
            spool.add(n, problems[n].id, source, given(n, 0))
    spool.add(2, problems[2].id, "two", given(0, 0))  # another problem: no repetition
    spool.flush()
    (shard,) = shards(tmp_path, problems)
    assert sort(shard) == {
        "one": {"traces": 1, "held_out_traces": 1},
        "two": {"duplicates": 2, "traces": 1},
    }
    assert [t.problem_id for t in given_traces(shard).rows()] == [problems[0].id, problems[2].id]


def test_a_shard_without_given_traces_gets_no_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path / FOLDER, SIZE)
    problems = [problem(0, "held_out"), *(problem(n) for n in range(1, 4))]
    spool.add(0, problems[0].id, "one", given(0, 0))
    spool.flush()
    first, second = shards(tmp_path, problems)
    assert sort(first) == {"one": {"held_out_traces": 1}}
    assert sort(second) == {}
    assert not given_traces(first).sealed
    assert not given_traces(second).sealed
