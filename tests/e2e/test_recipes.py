"""The shipped recipes: each loads, and is rehearsed from ingest to select with the fake server.

In a rehearsal the teacher is the fake server, each data set is a small local file with the columns
that the recipe names, and there are fewer samples. All other settings are the recipe's own.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pipeline import open_run
from pipeline.config import Recipe
from pipeline.config.load import load_recipe, parse_recipe
from pipeline.engine.execute import DONE, execute
from pipeline.stages import STAGES
from tests.conftest import StartFakeServer

FOLDER = Path(__file__).resolve().parents[2] / "pipeline" / "recipes"
NAMES = ("gsm8k", "r1-math", "api", "traces")
OF_DATASETS = ("subset", "dataset_split", "revision", "reader")


@pytest.mark.parametrize("name", [*NAMES, "demo", "rounds"])
def test_a_recipe_loads_and_is_explained_line_by_line(name: str) -> None:
    path = FOLDER / f"{name}.toml"
    assert load_recipe(path).run == name
    assert sum("#" in line for line in path.read_text().splitlines()) >= 8
    assert max(map(len, path.read_text().splitlines())) <= 150


@pytest.mark.parametrize("name", NAMES)
def test_licences_for_the_cards_are_stated(name: str) -> None:
    recipe = load_recipe(FOLDER / f"{name}.toml")
    assert all(teacher.licence and teacher.terms for teacher in recipe.teacher)
    assert all(source.licence for source in recipe.ingest.sources)
    assert recipe.student
    assert recipe.student.licence


def rehearsal(name: str, url: str, folder: Path) -> Recipe:
    """The recipe with the fake server as its teacher and small files as its data sets."""
    given = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    if "teacher" in given:
        teacher = {k: v for k, v in given["teacher"].items() if k not in ("serve", "vllm", "api_key_env")}
        given["teacher"] = teacher | {"model": "fake", "base_url": url}
        given["generate"]["concurrency"] = 8
        if "samples" in given["generate"]:
            given["generate"]["samples"] = 2
    given["ingest"]["sources"] = [local(s, folder, n) for n, s in enumerate(given["ingest"]["sources"])]
    if contamination := given["filter"].get("contamination"):
        contamination["against"] = [local(s, folder, 50 + n) for n, s in enumerate(contamination["against"])]
    given["filter"]["max_rejected_fraction"] = 1
    return parse_recipe(given, (), name)


def local(source: dict[str, Any], folder: Path, number: int) -> dict[str, Any]:
    """A file with twenty sums, under the columns of the source; a source of traces has two of each."""
    path = folder / f"{number}-{source['name']}.jsonl"
    question, reference = source.get("question", "question"), source.get("reference", "answer")
    sums = [(number * 20 + i, i % 7 + 1) for i in range(20)]
    rows = [{question: f"What is {a} + {b}?", reference: str(a + b)} for a, b in sums]
    if source["kind"] == "traces":
        told = [f"<think>\n{a} and {b}. I count on.\n</think>\n\n\\boxed{{{a + b}}}" for a, b in sums]
        rows = [
            row | {source["response"]: [text, "<think>Hm"], source["finish_reason"]: [True, False]}
            for row, text in zip(rows, told, strict=True)
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = {k: v for k, v in source.items() if k not in OF_DATASETS}
    return plain | {"kind": "traces" if source["kind"] == "traces" else "file", "path": str(path)}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_rehearsed_from_ingest_to_select(
    name: str, fake_server: StartFakeServer, tmp_path: Path
) -> None:
    recipe = rehearsal(name, fake_server("--correct", "0.8").url, tmp_path)
    for stage in ("ingest", "generate", "filter", "select"):
        STAGES[stage].check(recipe)
        assert execute(STAGES[stage], recipe, tmp_path / name) == DONE
    run = open_run(tmp_path / name)
    why = run.why()
    assert why.traces == why.kept + sum(why.rejected.values()) + sum(why.undecided.values())
    assert why.kept > 0, why
    assert len(run.examples) > 0
    assert set(recipe.filter.rules) <= set(why.rules)
