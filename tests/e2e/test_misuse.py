"""Mistakes of users: each is reported in one line with exit code 2, before any work."""

import json
from pathlib import Path

import pytest

from tests.conftest import StartFakeServer
from tests.e2e.runs import PROBLEMS, SAMPLES, retort, run_stages, start, write_recipe


def refusal(runs: Path, *words: str, env: dict[str, str] | None = None) -> str:
    done = retort(runs, *words, env=env)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_mistakes_in_the_recipe_are_found_before_anything_is_written(tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, "http://127.0.0.1:9/v1"))
    assert "no such recipe" in refusal(tmp_path, "run", "nowhere.toml")
    assert "did you mean 'samples'" in refusal(tmp_path, "run", recipe, "generate.sample=1")
    assert "prompts here" in refusal(tmp_path, "run", recipe, "generate.prompt=none")
    assert "nosuch.jsonl" in refusal(tmp_path, "run", recipe, "ingest.sources.0.path=nosuch.jsonl")
    message = refusal(tmp_path, "run", recipe, "ingest.sources.0.question=nosuch")
    assert "nosuch" in message
    assert "question, answer" in message
    assert "NO_KEY_HERE" in refusal(tmp_path, "run", recipe, "teacher.api_key_env=NO_KEY_HERE")
    assert "finishd" in refusal(tmp_path, "run", recipe, "filter.rules.finishd={}")
    assert "no such" in refusal(tmp_path, "run", recipe, "student.model=./nosuch")
    assert not (tmp_path / "test").exists()


def test_a_stage_without_its_input_names_the_command_that_makes_it(tmp_path: Path) -> None:
    recipe = str(write_recipe(tmp_path, "http://127.0.0.1:9/v1"))
    assert "generate needs ingest, which is not made yet" in refusal(tmp_path, "generate", recipe)


def test_a_server_that_is_absent_or_rejects_the_key_stops_the_stage_at_once(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--key-env", "FAKE_KEY", env={"FAKE_KEY": "right-key-123456"})
    recipe = str(write_recipe(tmp_path, server.url))
    run_stages(tmp_path, recipe, "ingest")
    with_key = ("generate", recipe, "teacher.api_key_env=KEY")
    message = refusal(tmp_path, *with_key, env={"KEY": "wrong-key-abcdef"})
    assert "wrong-key-abcdef" not in message
    assert "401" in message
    right = {"KEY": "right-key-123456"}
    unknown = retort(tmp_path, *with_key, "teacher.model=other", env=right)
    assert unknown.returncode == 2
    assert "it lists 'fake'" in unknown.stderr.splitlines()[0]
    assert "`other` does not exist" in unknown.stderr.splitlines()[-1]
    dead = "teacher.base_url=http://127.0.0.1:9/v1"
    assert "127.0.0.1:9" in refusal(tmp_path, "generate", recipe, dead, "teacher.max_retries=0")
    assert retort(tmp_path, *with_key, env=right).returncode == 0


def test_failed_items_end_with_3_and_a_count_and_the_same_command_retries_them(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--too-long", "What is 3 + 2?")
    recipe = str(write_recipe(tmp_path, server.url))
    run_stages(tmp_path, recipe, "ingest")
    first = retort(tmp_path, "generate", recipe)
    assert first.returncode == 3
    assert f"{SAMPLES} failed, {(PROBLEMS - 1) * SAMPLES} done" in first.stderr
    assert "unfinished" in refusal(tmp_path, "filter", recipe)
    before = server.stats()["requests"]
    assert retort(tmp_path, "generate", recipe).returncode == 3
    assert server.stats()["requests"] - before <= SAMPLES
    assert retort(tmp_path, "generate", recipe, "generate.max_failed_fraction=0.05").returncode == 0
    assert retort(tmp_path, "filter", recipe).returncode == 0
    funnel = json.loads((tmp_path / "test/filter/manifest.json").read_text())["report"]
    assert funnel["rejected"]["finished: failed"] == SAMPLES
    counted = funnel["kept"] + sum(funnel["rejected"].values()) + sum(funnel["undecided"].values())
    assert counted == funnel["traces"] == PROBLEMS * SAMPLES


def test_a_second_process_on_the_same_stage_is_refused(tmp_path: Path, fake_server: StartFakeServer) -> None:
    recipe = str(write_recipe(tmp_path, fake_server("--latency", "1").url))
    run_stages(tmp_path, recipe, "ingest")
    first = start(tmp_path, "generate", recipe)
    try:
        while not (tmp_path / "test/generate/manifest.json").exists():
            assert first.poll() is None
        assert "is working on it" in refusal(tmp_path, "generate", recipe)
        assert "running" in retort(tmp_path, "status", "test").stdout
    finally:
        first.kill()
        first.communicate()


@pytest.mark.parametrize("words", [["status", "nosuch"], ["show", "nosuch"], ["status"]])
def test_a_missing_run_is_refused_in_one_line(tmp_path: Path, words: list[str]) -> None:
    refusal(tmp_path / "empty", *words)
