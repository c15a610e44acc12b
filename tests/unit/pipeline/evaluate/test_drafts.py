"""Which recipes can measure drafts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.chain import step_recipe
from pipeline.config import Recipe
from pipeline.errors import UserError
from pipeline.evaluate import drafts
from tests import tiny_student


def recipe(evaluate: dict[str, Any], **tables: Any) -> Recipe:
    plain = tiny_student.recipe().model_dump(mode="json", exclude_defaults=True)
    plain["teacher"] = {"model": "org/teacher", "serve": "vllm"}
    return Recipe.model_validate(plain | {"evaluate": {"draft_tokens": 4} | evaluate} | tables)


@pytest.mark.parametrize(
    "evaluate", [{"models": ["base", "student"]}, {"models": ["teacher"]}, {"modes": ["plain"]}]
)
def test_drafts_without_anything_to_compare_are_refused(evaluate: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r'evaluate\.models needs "teacher", and "base" or "student"'):
        drafts.check(recipe(evaluate))


def test_drafts_are_measured_where_a_teacher_is_scored(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    rounds = recipe({}, rounds={"n": 2})
    first, second = (step_recipe(rounds, i, tmp_path) for i in range(2))
    drafts.check(first)
    assert not drafts.wanted(second)
