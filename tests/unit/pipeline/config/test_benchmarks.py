"""Presets of usual benchmarks: as sets, as sources, as local copies, and on the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Recipe
from pipeline.config.benchmarks import BENCHMARKS, sets_of
from pipeline.config.load import load_recipe, parse_recipe
from pipeline.config.sources import DatasetSource, FileSource
from pipeline.errors import UserError
from pipeline.evaluate.single_model import single_model_recipe

BASE: dict[str, Any] = {
    "run": "r",
    "ingest": {"sources": [{"kind": "file", "path": "p.jsonl"}]},
    "teacher": {"model": "m", "base_url": "http://127.0.0.1:9/v1"},
    "generate": {"prompt": "plain"},
}


def recipe(**tables: Any) -> Recipe:
    return parse_recipe(json.loads(json.dumps(BASE | tables)), (), "here")


def with_sets(*sets: dict[str, Any]) -> Recipe:
    return recipe(evaluate={"sets": sets})


def test_every_benchmark_is_a_valid_source_pinned_to_a_commit() -> None:
    found = with_sets(*({"benchmark": name} for name in BENCHMARKS)).evaluate.sets
    assert [each.name for each in found] == list(BENCHMARKS)
    for each in found:
        (source,) = each.sources
        assert isinstance(source, DatasetSource)
        assert source.revision
        assert re.fullmatch("[0-9a-f]{40}", source.revision)
        assert (source.name, source.split) == (each.name, "held_out")


def test_the_documentation_lists_every_benchmark_with_its_data_set() -> None:
    page = Path("docs/evaluating.md").read_text(encoding="utf-8")
    for name, preset in BENCHMARKS.items():
        assert re.search(rf"\| `{name}` \| {re.escape(preset['path'])}[ ,]", page), name


def test_a_benchmark_is_stored_as_the_source_that_it_stands_for() -> None:
    given = with_sets({"benchmark": "math500", "prompt": "plain"})
    assert Recipe.model_validate_json(given.model_dump_json()) == given
    assert given.evaluate.sets[0].prompt == "plain"


def test_a_local_copy_is_a_file_or_a_folder() -> None:
    file, folder = with_sets(
        {"benchmark": "mmlu_pro", "path": "copies/test.parquet"},
        {"benchmark": "gsm8k", "path": "copies/gsm8k"},
    ).evaluate.sets
    assert type(file.sources[0]) is FileSource
    assert (file.sources[0].path, file.sources[0].choices) == ("copies/test.parquet", "options")
    assert isinstance(folder.sources[0], DatasetSource)
    assert (folder.sources[0].subset, folder.sources[0].revision) == ("main", None)


def test_a_benchmark_is_a_source_wherever_sources_are() -> None:
    given = recipe(
        filter={
            "contamination": {"against": [{"benchmark": "aime24"}, {"benchmark": "math500", "limit": 5}]}
        },
        ingest={"sources": [{"benchmark": "gsm8k", "name": "g", "columns": "all"}]},
    )
    assert given.filter.contamination is not None
    first, second = given.filter.contamination.against
    assert isinstance(second, DatasetSource)
    assert (first.name, second.limit) == ("aime24", 5)
    assert (given.ingest.sources[0].name, given.ingest.sources[0].split) == ("g", "held_out")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"benchmark": "math50"}, "no benchmark 'math50'; did you mean 'math500'?"),
        ({"path": "x.jsonl"}, "path is the local copy of a benchmark"),
        (
            {"benchmark": "math500", "sources": [{"kind": "file", "path": "p.jsonl"}]},
            "set either benchmark or sources",
        ),
    ],
)
def test_a_mistake_about_benchmarks_is_one_line(given: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as caught:
        with_sets(given)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_line_adds_benchmarks_to_the_sets_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        'run = "r"\n[ingest]\nsources = [{ kind = "file", path = "p.jsonl" }]\n[teacher]\nmodel = "m"\n'
        'base_url = "http://127.0.0.1:9/v1"\n[generate]\nprompt = "plain"\n[[evaluate.sets]]\nname = "own"\n'
        'sources = [{ kind = "file", path = "own.jsonl" }]\n'
    )
    found = load_recipe(path, (), sets_of("aime24, math500=copies/math.jsonl")).evaluate.sets
    assert [each.name for each in found] == ["own", "aime24", "math500"]
    with pytest.raises(UserError, match=r"--problems: no benchmark 'aime2024'; did you mean 'aime24'\?"):
        sets_of("math500,aime2024")
    with pytest.raises(UserError, match="two sets are called 'own'"):
        load_recipe(path, (), [{"benchmark": "aime24", "name": "own"}])


def test_one_model_is_scored_on_benchmarks_without_a_recipe() -> None:
    none = dict.fromkeys(("api_key_env", "prompt", "question", "answer", "answer_type"))
    given = single_model_recipe("m", "aime24,gsm8k=copies/g.jsonl", base_url="http://127.0.0.1:9/v1", **none)
    assert [each.name for each in given.evaluate.sets] == ["aime24", "gsm8k"]
    assert not given.evaluate.held_out
    with pytest.raises(UserError, match="a benchmark has its own"):
        single_model_recipe("m", "aime24", base_url="http://127.0.0.1:9/v1", **none | {"answer": "x"})
