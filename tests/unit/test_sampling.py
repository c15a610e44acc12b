import random
from pathlib import Path

import pytest

from pipeline.engine.scheduler import Plan, WorkItem
from pipeline.engine.shard import Shard, done_line, failed_line
from pipeline.generate.sample_plan import JUDGE, Rules, plan, sampling_seed, trace_id, wanted
from pipeline.rows import Outcome, Problem, Sampling, Trace
from tests.unit.test_shard import problem

FIXED = Rules(most=4, until=None, max_continuations=0)
ADAPTIVE = Rules(most=6, until=2, max_continuations=0)
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


def planned(shard: Shard, rules: Rules, problems: list[Problem] = PROBLEMS, teachers: int = 1) -> Plan:
    return plan([(p, range(teachers)) for p in problems], shard, rules, lambda _samples: None)


def keys(units: object) -> list[str]:
    return [unit.key for unit in units]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("outcomes", "samples"),
    [
        ({}, 2),
        ({0: "kept"}, 2),
        ({0: "kept", 1: "kept"}, 2),
        ({0: "rejected"}, 3),
        ({1: "rejected"}, 3),
        ({0: "rejected", 1: "unknown", 2: "kept"}, 4),
        ({0: "rejected", 1: "rejected", 2: "rejected", 3: "rejected", 4: "rejected"}, 6),
    ],
)
def test_samples_wanted_are_the_fewest_that_may_hold_enough_kept_ones(
    outcomes: dict[int, Outcome], samples: int
) -> None:
    assert wanted(outcomes, ADAPTIVE) == samples


def test_what_is_wanted_in_the_end_is_the_same_in_any_order_of_arrival() -> None:
    rng = random.Random(3)
    for _ in range(200):
        truth: list[Outcome] = [rng.choice(["kept", "rejected", "unknown"]) for _ in range(ADAPTIVE.most)]
        ends = set()
        for _ in range(5):
            outcomes: dict[int, Outcome] = {}
            while missing := [i for i in range(wanted(outcomes, ADAPTIVE)) if i not in outcomes]:
                sample = rng.choice(missing)
                outcomes[sample] = truth[sample]
            ends.add(len(outcomes))
        first_enough = next((i + 1 for i in range(6) if truth[: i + 1].count("kept") == 2), 6)
        assert ends == {first_enough}


def test_every_sample_of_every_teacher_is_owed_at_first(tmp_path: Path) -> None:
    first = planned(shard_of(tmp_path), FIXED, teachers=2)
    assert len(first.units) == 2 * 2 * 4
    assert sorted(keys(first.units)) == sorted(first.order)
    assert {unit.lane for unit in first.units} == {"0", "1"}


def test_what_the_journal_holds_is_not_owed_and_what_failed_is_marked(tmp_path: Path) -> None:
    shard = shard_of(tmp_path, trace("a-0-0000"), trace("b-0-0003"))
    shard.append([failed_line("b-0-0001", "no answer")])
    owed = planned(shard, FIXED).units
    assert "a-0-0000" not in keys(owed)
    assert len(owed) == 6
    assert [unit.key for unit in owed if unit.tried] == ["b-0-0001"]


def test_a_trace_is_judged_where_that_decides_whether_more_are_drawn(tmp_path: Path) -> None:
    adaptive, fixed = (planned(shard_of(tmp_path), rules) for rules in (ADAPTIVE, FIXED))
    row = trace("a-0-0000")
    assert [(u.key, u.lane) for u in adaptive.follow(row)] == [("a-0-0000", JUDGE)]
    assert fixed.follow(row) == []


def test_each_trace_that_is_not_kept_leads_to_one_more_until_there_are_enough(tmp_path: Path) -> None:
    here = planned(shard_of(tmp_path), ADAPTIVE)
    assert keys(u for u in here.units if u.key.startswith("a")) == ["a-0-0000", "a-0-0001"]
    assert keys(here.follow(trace("a-0-0001", outcome="rejected"))) == ["a-0-0002"]
    assert keys(here.follow(trace("a-0-0000", outcome="kept"))) == []
    assert keys(here.follow(trace("a-0-0002", outcome="undecided"))) == ["a-0-0003"]
    assert keys(here.follow(trace("a-0-0003", outcome="kept"))) == []


def test_a_resumed_run_keeps_the_decisions_of_the_one_that_stopped(tmp_path: Path) -> None:
    rows = [trace("a-0-0000", outcome="kept"), trace("a-0-0001", outcome="kept"), trace("b-0-0001")]
    here = planned(shard_of(tmp_path, *rows), ADAPTIVE)
    assert sorted((u.key, u.lane) for u in here.units) == [("b-0-0000", "0"), ("b-0-0001", JUDGE)]


def test_a_problem_with_enough_is_told_once_however_it_got_there(tmp_path: Path) -> None:
    told: list[int] = []
    shard = shard_of(tmp_path, *(trace(f"a-0-000{i}", outcome="kept") for i in range(2)))
    here = plan([(p, [0]) for p in PROBLEMS], shard, ADAPTIVE, told.append)
    assert told == [2]
    for sample, outcome in enumerate(["kept", "rejected", "kept"]):
        here.follow(trace(f"b-0-000{sample}", outcome=outcome))
    assert told == [2, 3]


CUT = {"finish_reason": "length", "reasoning": "I thi", "response": ""}


def continuing(row: Trace, folder: Path, most: int = 2) -> list[WorkItem]:
    rules = Rules(most=4, until=None, max_continuations=most)
    return list(planned(shard_of(folder), rules).follow(row))


def test_a_cut_thought_is_continued_as_often_as_it_may(tmp_path: Path) -> None:
    row = trace("a-0-0000", **CUT)
    (unit,) = continuing(row, tmp_path)
    assert (unit.key, unit.args.row) == ("a-0-0000", row)
    assert len(continuing(row.model_copy(update={"continuations": 1}), tmp_path)) == 1
    assert continuing(row.model_copy(update={"continuations": 2}), tmp_path) == []
    assert continuing(row, tmp_path, most=0) == []


def test_what_cannot_be_continued_is_left_as_it_is(tmp_path: Path) -> None:
    assert continuing(trace("a-0-0000", **CUT, error="could not be continued"), tmp_path) == []
    assert continuing(trace("a-0-0000", finish_reason="length"), tmp_path) == []  # its thought is closed
    assert continuing(trace("a-0-0000"), tmp_path) == []


def test_a_cut_thought_in_the_journal_is_still_owed_its_continuation(tmp_path: Path) -> None:
    rules = Rules(most=1, until=None, max_continuations=1)
    here = planned(shard_of(tmp_path, trace("a-0-0000", **CUT)), rules)
    assert sorted(keys(here.units)) == ["a-0-0000", "b-0-0000"]
    done = planned(shard_of(tmp_path, trace("a-0-0000", **CUT, continuations=1)), rules)
    assert keys(done.units) == ["b-0-0000"]


def test_ids_and_seeds_depend_on_the_sample_alone() -> None:
    assert trace_id("abc", 1, 7) == "abc-1-0007"
    assert sampling_seed("abc", 7, 0) == sampling_seed("abc", 7, 0) < 2**31
    assert len({sampling_seed("abc", s, r, c) for s in range(3) for r in range(3) for c in range(3)}) == 27


def test_no_sample_is_drawn_in_the_place_of_one_that_was_given_up(tmp_path: Path) -> None:
    given_up = trace("a-0-0000", finish_reason="failed", error="too long")
    here = planned(shard_of(tmp_path), ADAPTIVE)
    assert here.follow(given_up) == []
    held = planned(shard_of(tmp_path, given_up), ADAPTIVE)
    assert keys(u for u in held.units if u.key.startswith("a")) == ["a-0-0001"]
