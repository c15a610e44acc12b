"""Files that retort ships are found by their path in the repository, from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest

import prompts
from pipeline import shipped
from pipeline.config.load import find_recipe
from pipeline.errors import UserError
from pipeline.ingest import files
from pipeline.train import launcher

PROBLEMS = "data/arithmetic.jsonl"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_shipped_file_is_found_by_its_path_in_the_repository() -> None:
    assert find_recipe(Path("pipeline/recipes/demo.toml")) == find_recipe(Path("demo"))
    assert prompts.load("prompts/plain.txt") == prompts.load("plain")
    sharded = {"config_file": "pipeline/recipes/fsdp2.yaml", "num_processes": 8}
    assert launcher.sharding(sharded) == "FSDP"
    assert f"--config_file={shipped.RECIPES / 'fsdp2.yaml'}" in launcher.command(sharded, Path("job.json"))


def test_a_file_of_the_current_folder_comes_first(elsewhere: Path) -> None:
    (elsewhere / "data").mkdir()
    (elsewhere / PROBLEMS).write_text('{"question": "What is 2 + 3?", "answer": "5"}\n')
    assert len(list(files.records(Path(PROBLEMS)))) == 1


def test_rows_of_the_demo_name_no_folder_of_this_machine() -> None:
    (path,) = files.find(PROBLEMS)
    assert next(files.records(path)).origin == f"{PROBLEMS}:1"


@pytest.mark.parametrize("path", ["data/README.md", "data/*.jsonl", "arithmetic.jsonl", "./nothing.jsonl"])
def test_no_other_file_of_a_clone_is_found(path: str) -> None:
    with pytest.raises(UserError, match="no such file"):
        files.find(path)


def test_a_page_has_its_path_from_here_or_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path(shipped.page("sandbox.md")) == shipped.DOCS / "sandbox.md"
    monkeypatch.chdir(shipped.DOCS.parent)
    assert shipped.page("sandbox.md") == "docs/sandbox.md"
