"""What makes a filter stage run again."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import parse_recipe
from pipeline.errors import UserError
from pipeline.filter.stage import FILTER, settings
from tests.small_run import RECIPE


@pytest.mark.parametrize(
    "changed", [{"question": "problem"}, {"limit": 1}, {"question_template": "{{ question }}?"}]
)
def test_another_reading_of_an_evaluation_set_is_another_setting(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    path = tmp_path / "aime.jsonl"
    path.write_text('{"question": "Which sum?", "problem": "Which product?"}\n')

    def settings_of(**how: Any) -> dict[str, Any]:
        given = {"kind": "file", "path": str(path), "reference": "", **how}
        table = {"contamination": {"against": [given]}}
        recipe = parse_recipe(RECIPE | {"run": "test", "filter": table}, (), "here")
        return settings(recipe.filter, False, recipe)

    assert settings_of() == settings_of(answer_type="number", columns=[], reference="problem")
    assert settings_of(**changed) != settings_of()


def test_two_evaluation_sets_of_one_name_are_refused_as_one_would_replace_the_other(tmp_path: Path) -> None:
    given = []
    for folder in ("aime", "math"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test.jsonl").write_text(f'{{"question": "Which sum of {folder}?"}}\n')
        given.append({"kind": "file", "path": str(tmp_path / folder / "test.jsonl"), "reference": ""})

    def check(*against: dict[str, Any]) -> None:
        table = {"contamination": {"against": list(against)}}
        FILTER.check(parse_recipe(RECIPE | {"run": "test", "filter": table}, (), "here"))

    with pytest.raises(UserError, match=r"filter\.contamination\.against: two are called 'test'"):
        check(*given)
    check(given[0] | {"name": "aime"}, given[1])
