from pathlib import Path

import pytest

from pipeline.config import Recipe, identity, load_recipe
from pipeline.errors import UserError

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


def refusal(tmp_path: Path, *overrides: str, text: str = RECIPE) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, *overrides, text=text)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_recipe_needs_little_and_the_rest_has_defaults(tmp_path: Path) -> None:
    recipe = load(tmp_path)
    assert recipe.generate.samples == 4
    assert recipe.ingest.sources[0].kind == "file"


def test_overrides_are_toml_values_and_bare_words_are_text(tmp_path: Path) -> None:
    recipe = load(
        tmp_path,
        "generate.samples=2",
        "teacher.model=other",
        "ingest.sources.0.limit=7",
        "teacher.vllm.a=true",
    )
    assert (recipe.generate.samples, recipe.teacher.model) == (2, "other")
    assert recipe.ingest.sources[0].limit == 7
    assert recipe.teacher.vllm == {"a": True}


def test_an_unknown_key_is_named_with_the_nearest_known_one(tmp_path: Path) -> None:
    assert "unknown key 'generate.temprature'; did you mean 'temperature'?" in refusal(
        tmp_path, "generate.temprature=1"
    )
    assert "'ingest.sources.0.questoin'; did you mean 'question'?" in refusal(
        tmp_path, "ingest.sources.0.questoin=q"
    )
    assert "did you mean 'generate'?" in refusal(tmp_path, "generat.samples=1")
    assert "known: " in refusal(tmp_path, "train.zzzzzz=1")


def test_a_wrong_type_is_named_with_what_was_found(tmp_path: Path) -> None:
    message = refusal(tmp_path, "generate.samples=many")
    assert "generate.samples" in message
    assert "'many'" in message


def test_missing_keys_tables_and_files_are_named(tmp_path: Path) -> None:
    assert "missing key 'student'" in refusal(tmp_path, text=RECIPE.partition("[student]")[0])
    with pytest.raises(UserError, match="no such recipe"):
        load_recipe(tmp_path / "nowhere.toml")


def test_broken_toml_is_one_line(tmp_path: Path) -> None:
    assert "not a TOML recipe" in refusal(tmp_path, text="run = ")


def test_overrides_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    assert "an override is key=value" in refusal(tmp_path, "generate.samples")
    assert "is a value, not a table" in refusal(tmp_path, "run.name=x")
    assert "positions 0 to 0" in refusal(tmp_path, "ingest.sources.5.limit=1")


def test_a_run_name_cannot_leave_the_runs_folder(tmp_path: Path) -> None:
    assert "run" in refusal(tmp_path, "run=../elsewhere")


def test_a_model_is_reached_in_exactly_one_way(tmp_path: Path) -> None:
    assert 'set either serve = "vllm" or base_url' in refusal(tmp_path, "teacher.serve=vllm")


def test_how_the_work_is_done_never_enters_the_identity(tmp_path: Path) -> None:
    one, other = (
        load(tmp_path),
        load(tmp_path, "generate.concurrency=1", "teacher.port=9", "train.save_steps=3"),
    )
    assert identity(one.generate) == identity(other.generate)
    assert identity(one.teacher) == identity(other.teacher)
    assert identity(one.train) == identity(other.train)
    assert identity(one.generate) != identity(load(tmp_path, "generate.temperature=0.9").generate)
