"""reasoning-gym tasks as sources: real tasks, in their real subprocess."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.config.sources import GymSource
from pipeline.errors import UserError
from pipeline.ingest.sources import check, fingerprint, read
from pipeline.rows import Problem


def task(name: str, size: int = 3, **more: Any) -> GymSource:
    return GymSource(kind="reasoning_gym", task=name, size=size, **more)


def made(source: GymSource) -> list[Problem]:
    rows = list(read(source, held_out=0.5, seed=0))
    assert all(isinstance(row, Problem) for row in rows)
    return [row for row in rows if isinstance(row, Problem)]


def refusal(source: GymSource) -> str:
    with pytest.raises(UserError) as caught:
        check(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_task_gives_problems_that_its_scorer_can_grade_from_the_row_alone() -> None:
    import reasoning_gym

    rows = made(task("puzzle24", settings={"max_value": 6}, seed=7))
    assert [row.origin for row in rows] == [f"puzzle24 entry {n}" for n in range(3)]
    for row in rows:
        entry = json.loads(row.metadata or "")
        assert (row.answer_type, row.source) == ("reasoning_gym", "puzzle24")
        assert (row.question, row.reference) == (entry["question"], entry["answer"])
        scorer = reasoning_gym.create_dataset(entry["task"], **entry["settings"])
        assert scorer.score_answer(row.reference, entry) == 1


def test_a_task_that_iterates_over_sets_gives_the_same_problems_in_every_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = made(task("isomorphic_strings"))
    monkeypatch.setenv("PYTHONHASHSEED", "1")
    assert made(task("isomorphic_strings")) == first


def test_a_task_without_answers_gives_problems_without_a_reference() -> None:
    source = task("propositional_logic")
    check(source)
    assert {row.reference for row in made(source)} == {None}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (task("chain_sums"), "no such task; did you mean 'chain_sum'?"),
        (
            task("chain_sum", settings={"max_term": 3}),
            "unknown setting 'max_term'; did you mean 'max_terms'?",
        ),
        (task("chain_sum", settings={"size": 3}), "'size' belongs next to `task`, not into its settings"),
        (
            task("chain_sum", settings={"max_terms": "many"}),
            "setting 'max_terms': Input should be a valid integer, "
            "unable to parse string as an integer (found 'many')",
        ),
        (
            task("chain_sum", settings={"min_terms": 9, "max_terms": 2}),
            "it does not accept these settings: max_terms must be >= min_terms",
        ),
    ],
)
def test_an_unknown_task_or_setting_is_refused_with_the_nearest_name(source: GymSource, said: str) -> None:
    assert refusal(source) == f"reasoning-gym task {source.task!r}: {said}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("game_of_life_halting", "its scorer accepts any text"),
        ("arc_agi", "its scorer does not accept its own answer once the entry is stored"),
    ],
)
def test_a_task_with_an_unreliable_scorer_is_refused(name: str, said: str) -> None:
    assert refusal(task(name)) == f"reasoning-gym task {name!r} cannot be used: {said}"


def test_the_fingerprint_names_task_settings_seed_and_version() -> None:
    known = fingerprint(task("chain_sum", settings={"max_terms": 3}, seed=7))
    version = known.pop("reasoning_gym")
    assert known == {"task": "chain_sum", "settings": {"max_terms": 3}, "size": 3, "seed": 7}
    assert version[0].isdigit()
