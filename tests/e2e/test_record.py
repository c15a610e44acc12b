"""The record of a run: the settings of each stage, whatever refused commands asked for."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from pipeline import open_run
from pipeline.generate import usage
from tests.conftest import FakeServer
from tests.e2e.runs import retort, write_recipe


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe without a student, and its whole run."""
    folder = tmp_path_factory.mktemp("record")
    server = FakeServer("--correct", "0.7")
    try:
        recipe = write_recipe(folder, server.url)
        text = recipe.read_text().partition("[student]")[0].replace("held_out = 0.0", "held_out = 0.3")
        recipe.write_text(text + "[evaluate]\nsamples = 1\n")
        ran = retort(folder, "run", str(recipe))
        assert ran.returncode == 0, ran.stderr
        (folder / "said.txt").write_text(ran.stderr)
    finally:
        server.stop()
    return folder


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(done / "test", tmp_path / "test"))


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file but locks, with the time of its last change."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


@pytest.mark.parametrize(
    ("command", "setting"),
    [
        ("run", "generate.temperature=0.9"),
        ("run", "evaluate.temperature=0.1"),
        ("evaluate", "evaluate.temperature=0.1"),
        ("generate", "generate.temperature=0.9"),
    ],
)
def test_a_refused_command_writes_nothing(command: str, setting: str, done: Path, run: Path) -> None:
    before = state(run)
    refused = retort(run.parent, command, str(done / "recipe.toml"), setting)
    assert refused.returncode == 2, refused.stderr
    assert "was made with other settings" in refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert state(run) == before


def test_a_complete_stage_leaves_the_recorded_settings_of_other_stages(done: Path, run: Path) -> None:
    before = state(run)
    again = retort(run.parent, "ingest", str(done / "recipe.toml"), "generate.temperature=0.9")
    assert again.returncode == 0, again.stderr
    assert "done already" in again.stderr
    assert state(run) == before


def test_the_recorded_recipe_has_the_settings_of_each_stage(done: Path, run: Path) -> None:
    recipe = str(done / "recipe.toml")
    shutil.rmtree(run / "select")
    words = ("generate.temperature=0.9", "evaluate.samples=3", "select.per_problem=1", "train.epochs=7")
    assert retort(run.parent, "select", recipe, *words).returncode == 0
    recorded = open_run(run).recipe
    assert recorded.select.per_problem == 1
    assert recorded.train.epochs == 7  # of a stage that has not run yet
    for stage, table in (("generate", recorded.generate), ("evaluate", recorded.evaluate)):
        manifest = open_run(run).output(stage).manifest()
        assert manifest
        assert manifest.settings["temperature"] == table.temperature
    assert recorded.evaluate.samples == 1


def test_settings_that_change_no_output_may_differ_and_are_kept(done: Path, run: Path) -> None:
    words = ("teacher.price_per_mtok_out=1000", "generate.concurrency=3", "evaluate.concurrency=2")
    again = retort(run.parent, "run", str(done / "recipe.toml"), *words)
    assert again.returncode == 0, again.stderr
    assert open_run(run).recipe.teacher[0].price_per_mtok_out == 1000
    assert " spent" in again.stderr
    manifest = json.loads((run / "generate" / "manifest.json").read_text())
    assert manifest == json.loads((done / "test" / "generate" / "manifest.json").read_text())


def test_run_prints_the_result_of_each_stage_and_the_next_command(done: Path) -> None:
    said, run = (done / "said.txt").read_text(), open_run(done / "test")
    assert "train: skipped, the recipe has no [student]" in said
    funnel, tokens = run.report("filter"), sum(t.completion_tokens or 0 for t in run.traces)
    assert f"filter: kept {funnel['kept']:,} of {funnel['traces']:,} traces" in said
    assert f"generate: {funnel['traces']:,} traces, {tokens:,} tokens" in said
    assert f"ingest: {len(run.problems)} problems: " in said
    assert f"select: {funnel['kept']} kept traces = " in said
    progress = usage.read_attempts(run.path / "generate")[-1].line
    assert re.search(r"kept \d+ % \(\d+ filtered\)", progress)
    assert said.count("next:") == 1
    assert said.splitlines()[-1] == f"next: retort --runs {done} report test"


def test_the_next_command_can_be_pasted_from_stage_to_stage(tmp_path: Path) -> None:
    server = FakeServer("--correct", "0.7")
    folder = tmp_path / "a folder"
    folder.mkdir()
    try:
        recipe = write_recipe(folder, server.url)
        text = recipe.read_text().partition("[student]")[0].replace("held_out = 0.0", "held_out = 0.3")
        recipe.write_text(text)
        words, ran = ["ingest", str(recipe), "evaluate.samples=1"], []
        while words[0] != "report":
            ran.append(words[0])
            stage = retort(folder, *words)
            assert stage.returncode == 0, stage.stderr
            program, *rest = shlex.split(stage.stderr.splitlines()[-1].removeprefix("next: "))
            assert (program, rest[:2]) == ("retort", ["--runs", str(folder)])
            words = rest[2:]
    finally:
        server.stop()
    assert ran == ["ingest", "generate", "filter", "select", "evaluate"]
    assert words == ["report", "test"]
