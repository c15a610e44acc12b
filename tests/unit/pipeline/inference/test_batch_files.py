"""generate with `batch = "file"`: requests are answered by a file, written here as vLLM's run-batch does."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Stopped, UserError
from tests.conftest import StartFakeServer
from tests.e2e.runs import run_stages, sealed, write_recipe

PROBLEMS, REQUESTS = 6, 24
Line = dict[str, Any]


def recipe_of(folder: Path, asked: str) -> Path:
    """A recipe whose teacher is asked as these lines say, beside the folder of its ingested run."""
    recipe = write_recipe(folder.parent, "", PROBLEMS)
    recipe.write_text(recipe.read_text().replace('base_url = ""', asked))
    run_stages(folder, recipe, "ingest")
    return recipe


def requests(folder: Path) -> list[Path]:
    return sorted(folder.glob("test/batch-files/generate/fake/*.requests"))


def answer(file: Path, result: Callable[[Line], Line]) -> None:
    """Writes a result for each request, in their order."""
    lines = map(json.loads, file.read_text().splitlines())
    answered = ({"id": "vllm-1", "custom_id": line["custom_id"], **result(line)} for line in lines)
    file.with_suffix(".results").write_text("".join(f"{json.dumps(each)}\n" for each in answered))


def by(url: str) -> Callable[[Line], Line]:
    def result(line: Line) -> Line:
        asked = urllib.request.Request(f"{url}/chat/completions", json.dumps(line["body"]).encode())
        asked.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(asked) as answer:
            body = json.load(answer)
        return {"response": {"status_code": 200, "request_id": "vllm-batch-1", "body": body}, "error": None}

    return result


def failed(status: int, message: str) -> Line:
    """vLLM gives an error no body."""
    error = {"message": message, "type": "Error", "param": None, "code": status}
    response = {"status_code": status, "request_id": "vllm-batch-1", "body": None}
    return {"response": response, "error": {"error": error}}


def generate(folder: Path, recipe: Path) -> None:
    run_stages(folder, recipe, "generate")


def test_the_rows_are_those_of_a_server_and_no_request_is_written_twice(
    tmp_path: Path, fake_server: StartFakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    url = fake_server().url
    generate(tmp_path / "single", recipe_of(tmp_path / "single", f'base_url = "{url}"'))
    folder = tmp_path / "files"
    recipe = recipe_of(folder, 'batch = "file"\nbatch_requests = 20')
    for _ in range(2):
        with pytest.raises(Stopped, match="the same command collects them"):
            generate(folder, recipe)
        said = capsys.readouterr().err
        files = requests(folder)
        assert len(files) == 2
        assert all(f"vllm run-batch -i {file} -o {file.with_suffix('.results')}" in said for file in files)
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == REQUESTS
    answer(files[0], by(url))
    answer(files[1], lambda line: failed(500, "the engine died"))
    with pytest.raises(Stopped):
        generate(folder, recipe)
    (again,) = set(requests(folder)) - set(files)
    assert sorted(again.read_text().splitlines()) == sorted(files[1].read_text().splitlines())
    answer(again, by(url))
    generate(folder, recipe)
    assert sealed(folder / "test/generate") == sealed(tmp_path / "single/test/generate") != {}
    assert not again.exists()  # collected: the rows have them


def test_results_that_are_not_of_the_requests_or_not_whole_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    recipe = recipe_of(folder, 'batch = "file"')
    with pytest.raises(Stopped):
        generate(folder, recipe)
    (file,) = requests(folder)
    results = file.with_suffix(".results")
    answer(file, lambda line: failed(400, "no"))
    whole = results.read_bytes()
    results.write_bytes(whole.replace(b'"custom_id": "', b'"custom_id": "x'))
    with pytest.raises(UserError, match="it is of another file"):
        generate(folder, recipe)
    results.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Stopped, match=rf"lacks \d+ of {REQUESTS} results"):
        generate(folder, recipe)
    results.write_bytes(whole)
    with pytest.raises(Stopped, match="some items failed"):
        generate(folder, recipe)
    (journal,) = folder.glob("test/generate/*.jsonl")
    assert journal.read_text().count("HTTP 400: no") == REQUESTS
    with pytest.raises(Stopped, match="the same command collects them"):
        generate(folder, recipe)
    (again,) = requests(folder)  # each request failed
    assert again != file


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('base_url = "http://127.0.0.1:9/v1"', 'batch = "file" asks no server: remove serve and base_url'),
        ('continue_by = "completions"', 'batches cannot be used with continue_by = "completions"'),
    ],
)
def test_settings_of_a_server_are_refused(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        recipe_of(tmp_path / "files", f'batch = "file"\n{more}')
