import random
from pathlib import Path

import pytest

from pipeline.engine.journal import done_line, failed_line
from pipeline.engine.scheduler import Plan, WorkItem
from pipeline.engine.shard import Shard
from pipeline.generate.sample_plan import (
    FILTERING,
    SampleBudget,
    make_plan,
    samples_needed,
    sampling_seed,
    trace_id,
)
from pipeline.generate.sampler import _response_fields
from pipeline.inference.response import Completion
from pipeline.rows import Outcome, Problem, Sampling, Trace
from tests.unit.pipeline.engine.test_shard import problem

FIXED = SampleBudget(max_samples=4, target_kept=None, max_continuations=0)
ADAPTIVE = SampleBudget(max_samples=6, target_kept=2, max_continuations=0)
PROBLEMS = [problem("a"), problem("b")]


def trace(key: str, **fields: object) -> Trace:
    problem_id, _, sample = key.split("-")
    row = Trace(
        id=key,
        problem_id=problem_id,
        sample=int(sample),
        question="q",
        reference="1",
        answer_type="math",
        source="s",
        teacher="t",
        prompt="p",
        prompt_hash="h",
        sampling=Sampling(temperature=1, top_p=1, max_tokens=10),
        seed=1,
        reasoning="I think",
        response="1",
        finish_reason="stop",
        prompt_tokens=1,
        completion_tokens=2,
    )
    return row.model_copy(update=fields)


def shard_of(folder: Path, *rows: Trace) -> Shard:
    shard = Shard(folder, "shard-0", Trace, {})
    if rows:
        shard.append([done_line(row) for row in rows])
    return shard


def planned(
    shard: Shard, budget: SampleBudget, problems: list[Problem] = PROBLEMS, teachers: int = 1
) -> Plan:
    return make_plan([(p, range(teachers)) for p in problems], shard, budget, lambda _samples: None)


def keys(items: object) -> list[str]:
    return [item.key for item in items]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("outcomes", "samples"),
    [
        ({}, 2),
        ({0: "kept"}, 2),
        ({0: "kept", 1: "kept"}, 2),
        ({0: "rejected"}, 3),
        ({1: "rejected"}, 3),
        ({0: "rejected", 1: "undecided", 2: "kept"}, 4),
        ({0: "rejected", 1: "rejected", 2: "rejected", 3: "rejected", 4: "rejected"}, 6),
    ],
)
def test_the_fewest_samples_that_may_contain_enough_kept_ones_are_needed(
    outcomes: dict[int, Outcome], samples: int
) -> None:
    assert samples_needed(outcomes, ADAPTIVE) == samples


def test_the_final_number_of_samples_does_not_depend_on_the_order_of_outcomes() -> None:
    rng = random.Random(3)
    for _ in range(200):
        truth: list[Outcome] = [
            rng.choice(["kept", "rejected", "undecided"]) for _ in range(ADAPTIVE.max_samples)
        ]
        ends = set()
        for _ in range(5):
            outcomes: dict[int, Outcome] = {}
            while missing := [i for i in range(samples_needed(outcomes, ADAPTIVE)) if i not in outcomes]:
                sample = rng.choice(missing)
                outcomes[sample] = truth[sample]
            ends.add(len(outcomes))
        first_enough = next((i + 1 for i in range(6) if truth[: i + 1].count("kept") == 2), 6)
        assert ends == {first_enough}


def test_a_new_shard_needs_every_sample_of_every_teacher(tmp_path: Path) -> None:
    first = planned(shard_of(tmp_path), FIXED, teachers=2)
    assert len(first.items) == 2 * 2 * 4
    assert sorted(keys(first.items)) == sorted(first.order)
    assert {item.queue for item in first.items} == {"0", "1"}


def test_saved_samples_are_not_requested_again_and_failed_ones_are_marked(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, trace("a-0-0000"), trace("b-0-0003"))
    shard.append([failed_line("b-0-0001", "no answer")])
    pending = planned(shard, FIXED).items
    assert "a-0-0000" not in keys(pending)
    assert len(pending) == 6
    assert [item.key for item in pending if item.failed_before] == ["b-0-0001"]


def test_a_trace_is_filtered_if_that_decides_whether_more_are_sampled(tmp_path: Path) -> None:
    adaptive, fixed = (planned(shard_of(tmp_path), budget) for budget in (ADAPTIVE, FIXED))
    row = trace("a-0-0000")
    assert [(i.key, i.queue) for i in adaptive.next_items(row)] == [("a-0-0000", FILTERING)]
    assert fixed.next_items(row) == []


def test_each_trace_that_is_not_kept_leads_to_one_more_until_enough_are_kept(tmp_path: Path) -> None:
    here = planned(shard_of(tmp_path), ADAPTIVE)
    assert keys(i for i in here.items if i.key.startswith("a")) == ["a-0-0000", "a-0-0001"]
    assert keys(here.next_items(trace("a-0-0001", outcome="rejected"))) == ["a-0-0002"]
    assert keys(here.next_items(trace("a-0-0000", outcome="kept"))) == []
    assert keys(here.next_items(trace("a-0-0002", outcome="undecided"))) == ["a-0-0003"]
    assert keys(here.next_items(trace("a-0-0003", outcome="kept"))) == []


def test_a_resumed_run_decides_as_the_interrupted_one(tmp_path: Path) -> None:
    rows = [trace("a-0-0000", outcome="kept"), trace("a-0-0001", outcome="kept"), trace("b-0-0001")]
    here = planned(shard_of(tmp_path, *rows), ADAPTIVE)
    assert sorted((i.key, i.queue) for i in here.items) == [("b-0-0000", "0"), ("b-0-0001", FILTERING)]


def test_a_finished_problem_is_reported_once(tmp_path: Path) -> None:
    told: list[int] = []
    shard = shard_of(tmp_path, *(trace(f"a-0-000{i}", outcome="kept") for i in range(2)))
    here = make_plan([(p, [0]) for p in PROBLEMS], shard, ADAPTIVE, told.append)
    assert told == [2]
    for sample, outcome in enumerate(["kept", "rejected", "kept"]):
        here.next_items(trace(f"b-0-000{sample}", outcome=outcome))
    assert told == [2, 3]


TRUNCATED = {"finish_reason": "length", "reasoning": "I thi", "response": ""}


def continuing(row: Trace, folder: Path, most: int = 2) -> list[WorkItem]:
    budget = SampleBudget(max_samples=4, target_kept=None, max_continuations=most)
    return list(planned(shard_of(folder), budget).next_items(row))


def test_truncated_reasoning_is_continued_up_to_the_limit(tmp_path: Path) -> None:
    row = trace("a-0-0000", **TRUNCATED)
    (item,) = continuing(row, tmp_path)
    assert (item.key, item.payload.row) == ("a-0-0000", row)
    assert len(continuing(row.model_copy(update={"continuations": 1}), tmp_path)) == 1
    assert continuing(row.model_copy(update={"continuations": 2}), tmp_path) == []
    assert continuing(row, tmp_path, most=0) == []


def test_a_trace_that_cannot_be_continued_stays_as_it_is(tmp_path: Path) -> None:
    assert continuing(trace("a-0-0000", **TRUNCATED, error="could not be continued"), tmp_path) == []
    assert continuing(trace("a-0-0000", finish_reason="length"), tmp_path) == []  # its reasoning is complete
    assert continuing(trace("a-0-0000"), tmp_path) == []


def test_truncated_reasoning_in_the_journal_is_continued_on_resume(tmp_path: Path) -> None:
    budget = SampleBudget(max_samples=1, target_kept=None, max_continuations=1)
    here = planned(shard_of(tmp_path, trace("a-0-0000", **TRUNCATED)), budget)
    assert sorted(keys(here.items)) == ["a-0-0000", "b-0-0000"]
    done = planned(shard_of(tmp_path, trace("a-0-0000", **TRUNCATED, continuations=1)), budget)
    assert keys(done.items) == ["b-0-0000"]


def test_saved_samples_beyond_a_lower_target_cost_nothing_and_are_used_before_new_ones(
    tmp_path: Path,
) -> None:
    budget = SampleBudget(max_samples=5, target_kept=1, max_continuations=1)
    one = [problem("a")]
    kept = [trace("a-0-0000", outcome="kept"), trace("a-0-0001", **TRUNCATED), trace("a-0-0002")]
    assert planned(shard_of(tmp_path, *kept), budget, one).items == []

    (folder := tmp_path / "other").mkdir()
    rows = [trace("a-0-0000"), trace("a-0-0001", outcome="rejected"), trace("a-0-0002", **TRUNCATED)]
    here = planned(shard_of(folder, *rows, trace("a-0-0003", outcome="rejected")), budget, one)
    assert [(i.key, i.queue) for i in here.items] == [("a-0-0000", FILTERING)]
    (item,) = here.next_items(rows[0].model_copy(update={"outcome": "rejected"}))
    assert (item.key, item.payload.row) == ("a-0-0002", rows[2])
    assert keys(here.next_items(trace("a-0-0002", outcome="rejected"))) == ["a-0-0004"]


def test_ids_and_seeds_depend_on_the_sample_alone() -> None:
    assert trace_id("abc", 1, 7) == "abc-1-0007"
    assert sampling_seed("abc", 7, 0) == sampling_seed("abc", 7, 0) < 2**31
    assert len({sampling_seed("abc", s, r, c) for s in range(3) for r in range(3) for c in range(3)}) == 27


def test_a_failed_sample_is_not_replaced_by_another(tmp_path: Path) -> None:
    failed = trace("a-0-0000", finish_reason="failed", error="too long")
    here = planned(shard_of(tmp_path), ADAPTIVE)
    assert here.next_items(failed) == []
    held = planned(shard_of(tmp_path, failed), ADAPTIVE)
    assert keys(i for i in held.items if i.key.startswith("a")) == ["a-0-0001"]


def test_only_reasoning_that_goes_on_is_continued(tmp_path: Path) -> None:
    budget = SampleBudget(max_samples=1, target_kept=None, max_continuations=1)
    for n, (response, thinking) in enumerate((("", True), ("", False), ("so", False))):
        completion = Completion("why", response, "length", 1, 1, thinking=thinking)
        row = trace(trace_id("a", 0, 0), **_response_fields(completion))
        (folder := tmp_path / str(n)).mkdir()
        plan = planned(shard_of(folder, row), budget, PROBLEMS[:1])
        assert bool(plan.items) is thinking
