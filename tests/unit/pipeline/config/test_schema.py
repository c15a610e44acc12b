"""The JSON schema for editors accepts what a recipe may hold, and marks what it may not."""

import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipeline import shipped
from pipeline.config.schema import recipe_schema

SCHEMA = recipe_schema()
BASE = """
run = "x"
[[ingest.sources]]
kind = "file"
path = "a.jsonl"
[teacher]
model = "m"
base_url = "http://127.0.0.1:1/v1"
"""


def mistakes(text: str) -> list[Any]:
    return [*jsonschema.Draft7Validator(SCHEMA).iter_errors(tomllib.loads(text))]


@pytest.mark.parametrize("path", sorted(shipped.RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_name_the_schema_and_are_valid(path: Path) -> None:
    assert path.read_text().startswith("#:schema recipe.schema.json\n")
    assert mistakes(path.read_text()) == []


@pytest.mark.parametrize(
    "more",
    [
        "",
        "[filter.rules]\ncorrect = false\nno_leak = true\nlength = { max_reasoning = 3 }",
        '[filter.rules."my_rules.py:brief"]\nwords = 200',
        '[[evaluate.sets]]\nbenchmark = "aime24"',
        '[filter.contamination]\nagainst = [{ benchmark = "math500" }]',
    ],
)
def test_what_loads_is_valid(more: str) -> None:
    assert mistakes(BASE + more) == []
    assert mistakes(BASE.replace("[teacher]", "[[teacher]]") + more) == []


@pytest.mark.parametrize(
    "more",
    [
        "[generate]\ntemprature = 1",
        "[generate]\nsamples = 0",
        '[train]\nobjective = "rl"',
        "[filter.rules]\nno_leek = true",
        "[filter.rules]\nlength = { max = 3 }",
        '[[ingest.sources]]\nkind = "file"',
    ],
)
def test_what_does_not_load_is_marked(more: str) -> None:
    assert len(mistakes(BASE + more)) == 1


def test_settings_have_their_meaning_on_one_line() -> None:
    meaning = SCHEMA["$defs"]["Generate"]["properties"]["samples"]["description"]
    assert meaning.startswith("Traces per problem and teacher.")
    assert "\n" not in meaning
