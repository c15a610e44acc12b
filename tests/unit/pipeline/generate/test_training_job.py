"""What decides how often a problem is sampled."""

from pipeline.config.load import parse_recipe
from pipeline.generate.stage import training_job
from tests.small_run import RECIPE


def test_a_rule_that_does_not_decide_asks_for_no_further_sample() -> None:
    generate = {"prompt": "plain", "target_kept": 1, "max_samples": 4}
    table = {"rules": {"no_code": True}, "ignored": ["no_code", "correct"]}
    recipe = parse_recipe(RECIPE | {"run": "test", "generate": generate, "filter": table}, (), "here")
    assert set(training_job(recipe).filters) == {"finished", "single_reasoning", "final_answer"}
