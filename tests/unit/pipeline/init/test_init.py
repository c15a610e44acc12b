"""`retort init`: what it makes of the columns of a file, and that what it writes is a recipe."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli.main import cli
from pipeline.config.load import load_recipe
from pipeline.errors import UserError

SERVER = ("--model", "m", "--base-url", "http://127.0.0.1:9/v1")
TURNS = [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "<think>So</think> 2"}]


def init(folder: Path, row: dict[str, Any], *words: str) -> Result:
    data = folder / "my data.jsonl"
    data.write_text(json.dumps(row) + "\n")
    arguments = ["init", "--data", str(data), "--out", str(folder / "mine.toml"), *words]
    return CliRunner().invoke(cli, arguments, standalone_mode=False)


@pytest.mark.parametrize(
    ("row", "settings"),
    [
        (
            {"problem": "1 + 1?", "answer": 2},
            {"question": "problem", "reference": "answer", "answer_type": "math"},
        ),
        (
            {"Question": "1 + 1?", "solution": "So.\n#### 2"},
            {"question": "Question", "reference": "solution"},
        ),
        ({"input": "Is it?", "target": "Yes"}, {"answer_type": "yes_no"}),
        ({"question": "Who?", "answer": "Ada"}, {"answer_type": "text"}),
        ({"question": "Which?", "answer": "(B)"}, {"answer_type": "choice"}),
        ({"question": "Data?", "answer": {"a": 1}}, {"answer_type": "json"}),
        (
            {"question": "?", "choices": ["a", "b"], "answer": 1},
            {"choices": "choices", "reference_is": "index"},
        ),
        (
            {"question": "?", "options": ["red", "blue"], "answer": "red"},
            {"choices": "options", "reference_is": "text"},
        ),
        (
            {"prompt": "Write it.", "test_list": ["assert True"]},
            {"answer_type": "python", "tests": "test_list"},
        ),
        ({"question": "Why?"}, {"reference": ""}),
        ({"conversations": TURNS}, {"kind": "traces", "messages": "conversations", "teacher": "unknown"}),
        (
            {"problem": "?", "generations": ["2"], "model": "R1", "answer": "2"},
            {"kind": "traces", "response": "generations", "teacher_column": "model", "reference": "answer"},
        ),
    ],
)
def test_columns_are_recognized_by_their_names_and_values(
    tmp_path: Path, row: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert init(tmp_path, row, *SERVER).exception is None
    source = tomllib.loads((tmp_path / "mine.toml").read_text())["ingest"]["sources"][0]
    assert source.items() >= settings.items()
    assert load_recipe(tmp_path / "mine.toml").run == "mine"


def test_named_columns_are_taken_as_they_are(tmp_path: Path) -> None:
    row = {"question": "no", "q": "1 + 1?", "a": "2"}
    done = init(tmp_path, row, *SERVER, "--question", "q", "--answer", "a", "--answer-type", "number")
    assert "its first question   1 + 1?" in done.stdout
    source = load_recipe(tmp_path / "mine.toml").ingest.sources[0].model_dump()
    assert (source["question"], source["reference"], source["answer_type"]) == ("q", "a", "number")


def test_the_models_are_those_that_were_named(tmp_path: Path) -> None:
    init(tmp_path, {"question": "?", "answer": "1"}, *SERVER, "--api-key-env", "KEY", "--student", "s/tiny")
    recipe = load_recipe(tmp_path / "mine.toml")
    assert recipe.teacher[0].api_key_env == "KEY"
    assert recipe.student
    assert recipe.student.model == "s/tiny"
    (tmp_path / "mine.toml").unlink()
    init(tmp_path, {"question": "?", "answer": "1"}, "--model", "big")
    assert load_recipe(tmp_path / "mine.toml").teacher[0].serve == "vllm"


@pytest.mark.parametrize(
    ("row", "words", "message"),
    [
        ({"a": "x", "b": "y"}, SERVER, "no column looks like a question; name it with --question: a, b"),
        ({"question": "?"}, (), "init needs --model NAME"),
        ({"question": "?"}, (*SERVER, "--question", "q"), "no column 'q'; there are question"),
        ({"question": 5}, SERVER, "no question in the column 'question'"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
    tmp_path: Path, row: dict[str, Any], words: tuple[str, ...], message: str
) -> None:
    error = init(tmp_path, row, *words).exception
    assert isinstance(error, UserError)
    assert message in str(error)
    assert not (tmp_path / "mine.toml").exists()


def test_a_recipe_is_never_overwritten(tmp_path: Path) -> None:
    init(tmp_path, {"question": "?", "answer": "1"}, *SERVER)
    written = (tmp_path / "mine.toml").read_text()
    error = init(tmp_path, {"question": "?", "answer": "1"}, *SERVER, "--student", "s").exception
    assert "exists already" in str(error)
    assert (tmp_path / "mine.toml").read_text() == written
