"""Teachers that are asked through batches must not find each other's results."""

import pytest

from pipeline.config.load import parse_recipe
from pipeline.errors import UserError
from pipeline.generate.stage import GENERATE
from tests.small_run import RECIPE

SAME = [{"model": "org/large"}, {"model": "org/large", "name": "large"}]


@pytest.mark.parametrize("batch", ["file", False])
def test_two_teachers_with_batches_need_folders_of_their_own(batch: str | bool) -> None:
    asked = {"batch": "file"} if batch else {"base_url": "http://127.0.0.1:9/v1"}
    given = RECIPE | {"run": "test", "teacher": [each | asked for each in SAME]}
    recipe = parse_recipe(given, (), "here")
    if not batch:
        GENERATE.check(recipe)
        return
    with pytest.raises(UserError, match="two teachers share the folder 'large' of batches"):
        GENERATE.check(recipe)
