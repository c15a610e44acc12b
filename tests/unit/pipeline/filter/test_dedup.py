"""Duplicates across shards: which texts are compared, any number of workers, temporary files."""

import random

import pytest

from pipeline.config.filters import Filter
from pipeline.engine.shard import Shard
from pipeline.filter.apply import FilterContext
from pipeline.filter.dedup import find_duplicates
from pipeline.rows import Trace, TraceVerdicts
from tests.unit.filters.dataset.test_duplicates import a_text, changed
from tests.unit.filters.test_table import a_trace

PARALLEL = 1_000_000  # so many rows are processed in parallel


def a_shard(folder, name, *traces):
    """A shard of traces and one of the verdicts on them."""
    stored, verdicts = Shard(folder, name, Trace, {}), Shard(folder, f"{name}-v", TraceVerdicts, {})
    stored.write([trace.model_dump() for trace in traces])
    verdicts.write([trace.model_dump(include=set(TraceVerdicts.model_fields)) for trace in traces])
    return stored, verdicts


def a_sample(number, **changes):
    return a_trace(id=f"t{number}", **{"outcome": "kept", **changes})


def found(folder, *shards, rows=1, **settings):
    """The duplicates of each shard."""
    settings = {"problems": None, **settings}
    return list(find_duplicates(FilterContext(Filter(duplicates=settings)), shards, rows, folder))


def reasons(folder, *traces):
    (duplicates,) = found(folder, a_shard(folder, "s", *traces))
    return {row.id: row.reason for row in duplicates}


def test_a_long_shared_question_makes_no_duplicates(tmp_path):
    rng = random.Random(8)
    question = a_text(rng, 600)
    traces = [a_sample(i, question=question, reasoning=a_text(rng, 60)) for i in range(3)]
    assert reasons(tmp_path, *traces) == {}


def test_the_same_reasoning_for_two_questions_is_a_duplicate(tmp_path):
    thought = a_text(random.Random(9), 60)
    traces = [a_sample(i, problem_id=f"p{i}", question=f"Question {i}?", reasoning=thought) for i in range(2)]
    assert reasons(tmp_path, *traces) == {"t1": "duplicate"}


def test_short_traces_are_duplicates_only_under_the_same_question(tmp_path):
    short = {"reasoning": None, "response": "The answer is 7."}
    traces = [a_sample(i, problem_id=f"p{i // 2}", **short) for i in range(4)]
    assert reasons(tmp_path, *traces) == {"t1": "duplicate", "t3": "duplicate"}


@pytest.mark.parametrize("outcome", ["rejected", "undecided"])
def test_a_trace_that_is_not_kept_displaces_no_other(tmp_path, outcome):
    thought = a_text(random.Random(10), 60)
    traces = [a_sample(i, reasoning=thought, outcome=outcome if i == 0 else "kept") for i in range(3)]
    assert reasons(tmp_path, *traces) == {"t2": "duplicate"}


def test_results_of_several_processes_are_those_of_one(tmp_path):
    rng = random.Random(11)
    texts = [a_text(rng, 70) for _ in range(120)]
    texts += [changed(rng.choice(texts), 0.01, rng) for _ in range(120)]
    rng.shuffle(texts)
    samples = [
        a_sample(i, problem_id=f"p{i // 2}", question=texts[-1 - i // 4], reasoning=text)
        for i, text in enumerate(texts)
    ]
    shards = [a_shard(tmp_path, f"s{i}", *samples[40 * i : 40 * i + 40]) for i in range(6)]
    shards.append(a_shard(tmp_path, "s6"))
    alone = found(tmp_path, *shards, problems=0.8)
    assert found(tmp_path, *shards, problems=0.8, rows=PARALLEL) == alone
    for rows in alone[1:6]:
        assert {row.rule for row in rows} == {"duplicate_problem", "duplicate_trace"}
    assert alone[6] == []
