"""A student is asked as it was trained, whatever was selected since."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.chat.speaker import student_of
from pipeline.config.load import parse_recipe
from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.inspect.run import open_run
from pipeline.rows import Example, Row
from pipeline.train.stage import TRAIN, model_folder
from tests.small_run import RECIPE


def made(folder: Path, row: type[Row], settings: dict[str, str], **inputs: str) -> str:
    """A complete result; returns its content id."""
    output = Output(folder, row)
    output.save(Manifest(stage=folder.name, version=6, settings=settings, inputs=inputs, shards=()))
    output.finish()
    manifest = output.manifest()
    assert manifest is not None
    return manifest.content_id


def test_the_prompt_is_that_of_the_training(tmp_path: Path) -> None:
    folder, select = tmp_path / "run", tmp_path / "run" / "select"
    model_folder(folder).mkdir(parents=True)
    (model_folder(folder) / "config.json").write_text("{}")
    recipe = parse_recipe(RECIPE | {"run": "run", "student": {"model": "org/small"}}, (), "here")
    (folder / "recipe.json").write_text(recipe.model_dump_json())
    taught = made(select, Example, {"prompt": "[user]\nfirst {{ question }}"})
    made(folder / "train", TRAIN.row, {}, select=taught)

    def prompt() -> str:
        return student_of(open_run(folder), base_url="http://x/v1").prompt.text

    assert "first" in prompt()
    aside = folder / "previous" / "select" / "0001"
    shutil.copytree(select, aside)
    made(select, Example, {"prompt": "[user]\nsecond {{ question }}"})
    assert "first" in prompt()
    shutil.rmtree(aside)
    with pytest.raises(UserError, match="select was made again after train"):
        prompt()
