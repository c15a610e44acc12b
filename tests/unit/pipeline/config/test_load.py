from pathlib import Path

import pytest

from pipeline.config import Recipe
from pipeline.config.base import identity
from pipeline.config.load import RecipeError, load_recipe
from pipeline.errors import UserError
from pipeline.filter.stage import FILTER

RECIPE = """
run = "test"
[[ingest.sources]]
kind = "file"
path = "problems.jsonl"
[teacher]
model = "teacher"
base_url = "http://127.0.0.1:1/v1"
[generate]
prompt = "plain"
[student]
model = "student"
"""


def load(tmp_path: Path, *overrides: str, text: str = RECIPE) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return load_recipe(path, overrides)


def mistake(tmp_path: Path, *overrides: str, text: str = RECIPE) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, *overrides, text=text)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_short_recipe_is_completed_by_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    assert recipe.generate.most_samples == 4
    assert recipe.ingest.sources[0].kind == "file"


def test_overrides_are_toml_values_or_bare_words(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "generate.samples=2",
        "teacher.model=other",
        "ingest.sources.0.limit=7",
        "teacher.vllm.a=true",
    )
    assert (recipe.generate.samples, recipe.teacher[0].model) == (2, "other")
    assert recipe.ingest.sources[0].limit == 7
    assert recipe.teacher[0].vllm == {"a": True}


def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    assert "unknown key 'generate.temprature'; did you mean 'temperature'?" in mistake(
        tmp_path, "generate.temprature=1"
    )
    assert "'ingest.sources.0.questoin'; did you mean 'question'?" in mistake(
        tmp_path, "ingest.sources.0.questoin=q"
    )
    assert "did you mean 'generate'?" in mistake(tmp_path, "generat.samples=1")
    assert "known: " in mistake(tmp_path, "train.zzzzzz=1")


def test_an_unknown_answer_setting_suggests_the_reference(tmp_path: Path) -> None:
    assert "did you mean 'reference'?" in mistake(tmp_path, "ingest.sources.0.answer=a")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("generate.samples=many", "generate.samples: must be a whole number (found 'many')"),
        ("generate.samples=0", "generate.samples: must be greater than 0 (found 0)"),
        ("generate.samples=true", "generate.samples: must be a whole number (found 'true')"),
        ("ingest.held_out=true", "ingest.held_out: must be a number (found 'true')"),
        ("train.seed=false", "train.seed: must be a whole number (found 'false')"),
        ("train.objective=rl", "must be 'sft', 'topk_kd', 'logit_kd', 'on_policy', 'redi' or 'dpo' (found"),
        ("teacher.base_url=5", "teacher.base_url: must be text or a list (found 5)"),
        ("run=../x", "run: must have only letters, digits, dots, hyphens and underscores"),
        ("teacher.api_key_env=sk-1", "teacher.api_key_env: must be the name of an environment variable"),
        ("ingest.sources=[]", "ingest.sources: must not be empty"),
        ("ingest.sources.0.kind=x", "kind must be one of file, dataset, reasoning_gym, traces, not 'x'"),
        ("select.mix=[{}]", "select.mix.0: kind is missing: one of chat, plain"),
        ("select.mix=[{kind='x'}]", "select.mix.0: kind must be one of chat, plain, not 'x'"),
        ("select.mix=[{kind='plain', share=0.5, shar=1}]", "unknown key 'select.mix.0.shar'; did you mean"),
        ("ingest={sources=[{}]}", "kind is missing: one of file, dataset, reasoning_gym"),
        ("filter.majority.margn=1", "unknown key 'filter.majority.margn'; did you mean 'margin'?"),
    ],
)
def test_an_invalid_value_is_named_with_the_valid_ones(tmp_path: Path, override: str, words: str) -> None:
    message = mistake(tmp_path, override)
    assert words in message
    assert "more)" not in message
    assert "sk-1" not in message


def test_missing_keys_tables_and_files_are_named(tmp_path: Path) -> None:
    assert "missing key 'generate.prompt'" in mistake(tmp_path, text=RECIPE.replace("[generate]", "[select]"))
    with pytest.raises(UserError, match="no such recipe"):
        load_recipe(tmp_path / "nowhere.toml")


def test_all_mistakes_are_kept_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = RECIPE.replace('"teacher"', "3").replace('kind = "file"', "") + "[train]\nepoch = 3\n"
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, "generate.samples=many", text=text)
    path = tmp_path / "recipe.toml"
    assert caught.value.mistakes == (
        f"{path}: generate.samples: must be a whole number (found 'many')",  # not of a line of the file
        f"{path}:3: ingest.sources.0: kind is missing: one of file, dataset, reasoning_gym, traces",
        f"{path}:7: teacher.model: must be text (found 3)",
        f"{path}:14: unknown key 'train.epoch'; did you mean 'epochs'?",
    )
    assert str(caught.value).endswith("(and 3 more: `retort check` lists them)")


def test_a_shipped_recipe_is_found_by_its_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(Path("gsm8k")).run == "gsm8k"
    with pytest.raises(UserError, match="no such recipe; did you mean 'demo'"):
        load_recipe(Path("demoo"))
    with pytest.raises(UserError, match=r"gsm8k.toml: no such recipe$"):
        load_recipe(Path("gsm8k.toml"))


def test_broken_toml_is_one_line(tmp_path: Path) -> None:
    assert "not a TOML recipe" in mistake(tmp_path, text="run = ")


def test_overrides_with_an_impossible_key_are_refused(tmp_path: Path) -> None:
    assert "an override is key=value" in mistake(tmp_path, "generate.samples")
    assert "is a value, not a table" in mistake(tmp_path, "run.name=x")
    assert "positions 0 to 0" in mistake(tmp_path, "ingest.sources.5.limit=1")


def test_a_run_name_cannot_leave_the_runs_folder(tmp_path: Path) -> None:
    assert "run" in mistake(tmp_path, "run=../elsewhere")


def test_a_model_is_either_served_or_has_a_base_url(tmp_path: Path) -> None:
    assert 'set either serve = "vllm" or base_url' in mistake(tmp_path, "teacher.serve=vllm")


def test_an_empty_list_of_servers_does_not_start_one_here(tmp_path: Path) -> None:
    assert 'set either serve = "vllm" or base_url' in mistake(tmp_path, "teacher.base_url=[]")


def test_settings_without_effect_on_output_are_not_part_of_the_identity(tmp_path: Path) -> None:
    one, other = (
        load(tmp_path),
        load(tmp_path, "generate.concurrency=1", "teacher.port=9", "train.save_steps=3"),
    )
    assert identity(one.generate) == identity(other.generate)
    assert identity(one.teacher[0]) == identity(other.teacher[0])
    assert identity(one.train) == identity(other.train)
    assert identity(one.generate) != identity(load(tmp_path, "generate.temperature=0.9").generate)


TWO = RECIPE.replace("[teacher]", "[[teacher]]").replace(
    "[generate]", '[[teacher]]\nmodel = "other"\nbase_url = ["http://a/v1", "http://b/v1"]\n[generate]'
)


def test_several_teachers_are_an_array_of_tables(tmp_path: Path) -> None:
    recipe = load(tmp_path, text=TWO)
    assert [t.display_name for t in recipe.teacher] == ["teacher", "other"]
    assert recipe.teacher[1].base_urls == ("http://a/v1", "http://b/v1")
    assert load(tmp_path, "teacher.1.name=mine", text=TWO).teacher[1].display_name == "mine"
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_two_teachers_need_different_names(tmp_path: Path) -> None:
    assert "two teachers are called 'teacher'" in mistake(tmp_path, "teacher.1.model=teacher", text=TWO)


def test_a_mistake_in_a_teacher_is_named_as_written(tmp_path: Path) -> None:
    assert "unknown key 'teacher.modle'; did you mean 'model'" in mistake(tmp_path, "teacher.modle=x")
    assert "unknown key 'teacher.1.modle'" in mistake(tmp_path, "teacher.1.modle=x", text=TWO)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["generate.target_kept=2"], "set together"),
        (["generate.max_samples=2"], "set together"),
        (["generate.target_kept=2", "generate.max_samples=1"], "more than max_samples"),
        (["generate.target_kept=2", "generate.max_samples=8", "generate.samples=4"], "set either samples"),
    ],
)
def test_the_number_of_samples_is_set_in_one_way(tmp_path: Path, overrides: list[str], words: str) -> None:
    assert words in mistake(tmp_path, *overrides)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("filter.difficulty={low=0.9,high=0.1}", "filter.difficulty: low is more than high"),
        ("select.student_pass_rate={min=0.9,max=0.1}", "select.student_pass_rate: min is more than max"),
        ("filter={rules={correct=false},difficulty={}}", "filter: difficulty counts correct samples"),
        ('filter.contamination={against=[{kind="file",path="x"}],ngrams=[]}', "filter.contamination.ngrams"),
    ],
)
def test_filters_that_can_never_decide_are_refused(tmp_path: Path, override: str, words: str) -> None:
    assert words in mistake(tmp_path, override)


def test_difficulty_accepts_majority_votes(tmp_path: Path) -> None:
    assert load(tmp_path, "filter={rules={correct=false},difficulty={},majority={}}").filter.difficulty


def test_confidence_needs_log_probabilities(tmp_path: Path) -> None:
    FILTER.check(load(tmp_path, "filter.rules.confidence={}", "generate.logprobs=true"))
    with pytest.raises(UserError, match=r"confidence needs generate\.logprobs"):
        FILTER.check(load(tmp_path, "filter.rules.confidence={}"))


DEFAULT = ["finished", "single_reasoning", "final_answer", "correct"]


def test_naming_a_rule_adds_it_to_the_default_ones(tmp_path: Path) -> None:
    assert list(load(tmp_path, "filter.rules.no_repetition={}").filter.rules) == [*DEFAULT, "no_repetition"]
    rules = load(tmp_path, "filter.rules.correct.rounding_digits=3", "filter.rules.no_leak=true").filter.rules
    assert rules == {name: {} for name in DEFAULT} | {"correct": {"rounding_digits": 3}, "no_leak": {}}
    written = RECIPE + "[filter.rules]\none_language = true\n[filter.rules.no_repetition]\n"
    tuned = load(tmp_path, "filter.rules.one_language.min_share=0.8", text=written).filter.rules
    assert tuned["one_language"] == {"min_share": 0.8}
    named = [*DEFAULT, "one_language", "no_repetition"]
    assert list(load(tmp_path, text=written).filter.rules) == named


def test_false_switches_off_a_rule_whose_name_is_known(tmp_path: Path) -> None:
    off = RECIPE + "[filter.rules]\ncorrect = false\n"
    for recipe in (load(tmp_path, text=off), load(tmp_path, "filter.rules.correct=false")):
        assert list(recipe.filter.rules) == DEFAULT[:3]
        assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    added = RECIPE + "[filter.rules]\nno_leak = true\n"
    assert list(load(tmp_path, "filter.rules.no_leak=false", text=added).filter.rules) == DEFAULT
    assert "unknown filter 'corect'; did you mean 'correct'" in mistake(tmp_path, "filter.rules.corect=false")
    assert "filter.rules.correct" in mistake(tmp_path, "filter.rules.correct=3")
    every = [f"filter.rules.{name}=false" for name in DEFAULT]
    assert "filter.rules" in mistake(tmp_path, *every)


def test_if_reasoning_is_not_taught_no_rule_requires_it(tmp_path: Path) -> None:
    plain = ("select.reasoning=none", "filter.rules.length={}")
    rules = load(tmp_path, *plain).filter.rules
    assert (rules["single_reasoning"], rules["length"]) == ({"required": False}, {"min_reasoning": 0})
    asked = load(tmp_path, *plain, "filter.rules.single_reasoning.required=true").filter.rules
    assert asked["single_reasoning"] == {"required": True}
    assert load(tmp_path).filter.rules["single_reasoning"] == {}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("generate.temperature=nan", "generate.temperature: nan is not a finite number"),
        ("generate.temperature=1e999", "generate.temperature: inf is not a finite number"),
        (
            "filter.rules.no_repetition.share=-inf",
            "filter.rules.no_repetition.share: -inf is not a finite number",
        ),
        ("teacher.extra_body={a=[1, nan]}", "teacher.extra_body.a.1: nan is not a finite number"),
        ("seed=9999999999999999999", "seed: a number of more than 64 bits"),
        ('ingest.sources.0.path="a\\u0000b"', "ingest.sources.0.path: a text with a NUL"),
        ("generate.prompt=" + "[" * 3000 + "]" * 3000, "generate.prompt: nested too deeply"),
        ("teacher.extra_body=" + "{a=" * 40 + "1" + "}" * 40, "nested too deeply"),
        (".".join("a" * 2000) + "=1", "nested too deeply"),
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, override: str, words: str) -> None:
    message = mistake(tmp_path, override)
    assert words in message
    assert len(message) < 300


def test_a_deeply_nested_recipe_is_refused(tmp_path: Path) -> None:
    assert "nested too deeply" in mistake(tmp_path, text="run = " + "[" * 100_000)
