"""Changes to a run: growing it, other filters, stopping early, reusing another run, and from Python."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import Run, open_run, run_recipe, run_stage
from pipeline.errors import Stopped, UserError
from tests.conftest import FakeServer, StartFakeServer
from tests.e2e.runs import PROBLEMS, SAMPLES, retort, run_stages, sealed, write_recipe

HALF = PROBLEMS // 2


@pytest.fixture
def server(fake_server: StartFakeServer) -> FakeServer:
    return fake_server("--correct", "0.7")


def made(folder: Path, recipe: Path, *settings: str, through: str = "generate") -> Path:
    """The run's folder after ingest and generate, and with `through` later stages."""
    stages = ("ingest", "generate", "filter", "select")
    run_stages(folder, recipe, *stages[: stages.index(through) + 1], settings=settings)
    return folder / "test"


def asked(server: FakeServer) -> int:
    return int(server.stats()["requests"])


@pytest.mark.parametrize(
    ("small", "grown", "new"),
    [
        (("generate.samples=2",), (), PROBLEMS * (SAMPLES - 2)),
        ((f"ingest.sources.0.limit={HALF}",), (), (PROBLEMS - HALF) * SAMPLES),
        (("ingest.shard_size=4", "generate.samples=1"), ("ingest.shard_size=16",), PROBLEMS * (SAMPLES - 1)),
        (
            ("generate.target_kept=1", "generate.max_samples=2"),
            ("generate.target_kept=2", "generate.max_samples=4"),
            None,
        ),
    ],
)
def test_a_grown_run_has_the_bytes_of_a_run_made_at_once_and_requests_only_new_samples(
    small: tuple[str, ...], grown: tuple[str, ...], new: int | None, server: FakeServer, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, server.url)
    if "target" in small[0]:
        recipe.write_text(recipe.read_text().replace(f"samples = {SAMPLES}\n", ""))
    at_once = made(tmp_path / "at_once", recipe, *grown)
    total = asked(server)
    run = made(tmp_path / "steps", recipe, *small)
    before = asked(server)
    made(tmp_path / "steps", recipe, *grown)
    assert asked(server) - before == (total - (before - total) if new is None else new)
    assert sealed(run / "generate") == sealed(at_once / "generate")
    assert not (run / "previous" / "generate").exists()  # all of it is in the present result


def test_added_rows_and_another_teacher_request_only_new_samples(server: FakeServer, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, server.url, HALF)
    run = made(tmp_path, recipe)
    before = asked(server)
    recipe = write_recipe(tmp_path, server.url, PROBLEMS)
    done = retort(tmp_path, "generate", str(recipe))  # ingest is brought up to date first
    assert done.returncode == 0, done.stderr
    assert asked(server) - before == (PROBLEMS - HALF) * SAMPLES
    table = f'[[teacher]]\nname = "new"\nmodel = "fake"\nbase_url = "{server.url}"\n[[teacher]]'
    recipe.write_text(recipe.read_text().replace("[teacher]", table))
    assert retort(tmp_path, "generate", str(recipe)).returncode == 0
    assert asked(server) - before == (PROBLEMS - HALF) * SAMPLES + PROBLEMS * SAMPLES
    traces = list(open_run(run).rows("generate"))
    assert len({trace.id for trace in traces}) == len(traces) == 2 * PROBLEMS * SAMPLES
    assert {(trace.teacher, trace.id.split("-")[1]) for trace in traces} == {("new", "0"), ("fake", "1")}


def test_traces_of_a_corrected_reference_are_kept_and_filtered_by_the_new_one(
    server: FakeServer, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, server.url)
    made(tmp_path, recipe, through="filter")
    before, problems = asked(server), tmp_path / "problems.jsonl"
    rows = [json.loads(line) for line in problems.read_text().splitlines()]
    problems.write_text("".join(json.dumps({**row, "answer": "1000000"}) + "\n" for row in rows))
    run = made(tmp_path, recipe, through="generate")
    done = retort(tmp_path, "filter", str(recipe), "filter.max_rejected_fraction=1")
    assert done.returncode == 0, done.stderr
    assert asked(server) == before
    assert {trace.reference for trace in open_run(run).rows("generate")} == {"1000000"}
    assert open_run(run).why().kept == 0


def test_a_growth_that_is_killed_loses_nothing(server: FakeServer, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, server.url)
    run = made(tmp_path, recipe, "generate.samples=2")
    paid = {trace.id for trace in open_run(run).rows("generate")}
    server.stop()
    stopped = retort(tmp_path, "generate", str(recipe))
    assert stopped.returncode in (2, 3), stopped.stderr
    assert open_run(run).counts()["generate"].rows == len(paid)
    again = FakeServer("--correct", "0.7", "--port", server.url.split(":")[-1].removesuffix("/v1"))
    try:
        assert retort(tmp_path, "generate", str(recipe)).returncode == 0
        assert asked(again) == PROBLEMS * (SAMPLES - 2)
        assert paid <= {trace.id for trace in open_run(run).rows("generate")}
    finally:
        again.stop()


def test_contradicting_settings_are_refused_without_advice_to_delete_paid_traces(
    server: FakeServer, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, server.url)
    run = made(tmp_path, recipe)
    before = sealed(run / "generate")
    for setting in ("generate.temperature=0.9", "generate.prompt=plain", "teacher.model=other"):
        name = ("teacher.name=fake",) if "model" in setting else ()
        refused = retort(tmp_path, "generate", str(recipe), setting, *name)
        assert refused.returncode == 2
        assert "was made with other settings" in refused.stderr
        assert "delete" not in refused.stderr
        assert "--again, which keeps what is there" in refused.stderr
    done = retort(tmp_path, "generate", str(recipe), "generate.temperature=0.9", "--again")
    assert done.returncode == 0, done.stderr
    assert sealed(run / "previous" / "generate" / "0001") == before
    assert sealed(run / "generate") != before


def test_fewer_samples_keep_the_paid_ones_for_later(server: FakeServer, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, server.url)
    run = made(tmp_path, recipe)
    before = asked(server)
    done = retort(tmp_path, "generate", str(recipe), "generate.samples=1")
    assert "keeps 120 rows that these settings do not need" in done.stderr
    assert len(open_run(run).rows("generate")) == PROBLEMS
    assert retort(tmp_path, "generate", str(recipe)).returncode == 0
    assert asked(server) == before


def test_another_run_takes_over_the_traces_that_are_still_valid(server: FakeServer, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, server.url, HALF)
    made(tmp_path, recipe)
    before = asked(server)
    recipe = write_recipe(tmp_path, server.url, PROBLEMS)
    for stage in ("ingest", "generate"):
        done = retort(tmp_path, stage, str(recipe), "run=more", "reuse=test")
        assert done.returncode == 0, done.stderr
    assert asked(server) - before == (PROBLEMS - HALF) * SAMPLES
    for stage in ("ingest", "generate"):
        done = retort(tmp_path, stage, str(recipe), "run=hot", "reuse=test", "generate.temperature=1.5")
    assert "no trace in" in done.stderr
    assert "temperature: 0.6 -> 1.5" in done.stderr
    assert asked(server) - before == (PROBLEMS - HALF) * SAMPLES + PROBLEMS * SAMPLES
    refused = retort(tmp_path, "generate", str(recipe), "run=more", "reuse=nowhere", "generate.samples=5")
    assert refused.returncode == 2
    assert "reuse = 'nowhere': there is no run" in refused.stderr


def test_a_changed_filter_makes_filter_and_select_again_and_costs_nothing(
    server: FakeServer, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, server.url)
    run = made(tmp_path, recipe, through="select")
    first, before = sealed(run / "select"), asked(server)
    done = retort(
        tmp_path,
        "select",
        str(recipe),
        "filter.rules.length.max_response=1",
        "filter.max_rejected_fraction=1",
    )
    assert done.returncode == 2
    assert "no example to train on" in done.stderr
    assert sealed(run / "previous" / "select" / "0001") == first
    compared = retort(tmp_path, "diff", "test").stdout
    assert "rules.length.max_response: not set -> 1" in compared
    assert "test before" in compared
    done = retort(tmp_path, "select", str(recipe))
    assert done.returncode == 0
    assert "the earlier result of these settings is brought back" in done.stderr
    assert sealed(run / "select") == first
    assert asked(server) == before


@pytest.mark.parametrize(
    ("setting", "mistake"),
    [
        ("filter.rules.no_leek=true", "unknown filter 'no_leek'; did you mean 'no_leak'?"),
        ("filter.rules.length.max_tokens=1", "filter.rules.length: unknown parameter 'max_tokens'"),
    ],
)
def test_a_mistake_in_an_earlier_stage_is_found_before_that_stage_runs_again(
    setting: str, mistake: str, server: FakeServer, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path, server.url)
    run = made(tmp_path, recipe, through="select")
    refused = retort(tmp_path, "select", str(recipe), setting)
    assert (refused.returncode, mistake in refused.stderr) == (2, True), refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (run / "previous").exists()


@pytest.fixture
def stopped(server: FakeServer, tmp_path: Path) -> Iterator[tuple[FakeServer, Path]]:
    """A run after an interrupted generate stage, some traces in journals, and a server that works again."""
    recipe = write_recipe(tmp_path, server.url)
    made(tmp_path, recipe, "generate.samples=2", "ingest.sources.0.limit=20")
    server.stop()
    assert retort(tmp_path, "generate", str(recipe)).returncode in (2, 3)
    again = FakeServer("--correct", "0.7", "--port", server.url.split(":")[-1].removesuffix("/v1"))
    yield again, recipe
    again.stop()


def test_later_stages_read_partial_output_if_allowed_and_a_later_command_completes_it(
    stopped: tuple[FakeServer, Path], tmp_path: Path
) -> None:
    server, recipe = stopped
    refused = retort(tmp_path, "filter", str(recipe))
    assert refused.returncode == 2
    assert "add --partial to work on what is there" in refused.stderr
    run = open_run(tmp_path / "test")
    paid = run.counts()["generate"].rows
    for stage in ("filter", "select"):
        done = retort(tmp_path, stage, str(recipe), "--partial")
        assert done.returncode == 0, done.stderr
        manifest = run.output(stage).manifest()
        assert manifest
        assert manifest.partial == {"generate": PROBLEMS * SAMPLES - paid}
    refused = retort(tmp_path, "select", str(recipe))
    assert refused.returncode == 2
    assert "made with --partial and lacks 120 rows of generate" in refused.stderr
    assert retort(tmp_path, "generate", str(recipe)).returncode == 0
    assert asked(server) == PROBLEMS * SAMPLES - paid
    assert retort(tmp_path, "select", str(recipe)).returncode == 0
    manifest = run.output("select").manifest()
    assert manifest
    assert manifest.partial == {}
    assert len(run.rows("filter")) == PROBLEMS * SAMPLES


def test_python_runs_stages_as_the_command_does(server: FakeServer, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, server.url)
    recipe.write_text(recipe.read_text().partition("[student]")[0])
    settings = ("ingest.held_out=0.3", "evaluate.samples=1")
    run = run_recipe(recipe, *settings, runs=tmp_path)
    assert isinstance(run, Run)
    assert {name: run.state(name) for name in ("select", "evaluate")} == dict.fromkeys(
        ("select", "evaluate"), "complete"
    )
    before = asked(server)
    again = run_stage("filter", recipe, *settings, "filter.rules.no_leak=true", runs=tmp_path)
    assert "no_leak" in again.why().rules
    assert asked(server) == before
    with pytest.raises(UserError, match="no stage 'filtr'; did you mean 'filter'"):
        run_stage("filtr", recipe, runs=tmp_path)
    server.stop()
    with pytest.raises((Stopped, UserError)):
        run_stage("generate", recipe, *settings, "generate.samples=5", runs=tmp_path)


def test_a_stage_runs_inside_an_event_loop_as_in_a_notebook(server: FakeServer, tmp_path: Path) -> None:
    import asyncio

    recipe = write_recipe(tmp_path, server.url)

    async def notebook() -> int:
        run_stage("ingest", recipe, runs=tmp_path)
        return len(run_stage("generate", recipe, runs=tmp_path).rows("generate"))

    assert asyncio.run(notebook()) == PROBLEMS * SAMPLES


def test_parts_of_an_array_job_end_with_the_bytes_of_one_command(server: FakeServer, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, server.url)
    whole = made(tmp_path / "whole", recipe, through="select")
    shutil.copytree(whole / "ingest", tmp_path / "parts" / "test" / "ingest")
    for stage in ("generate", "filter", "select"):
        for part in range(3):
            done = retort(tmp_path / "parts", stage, str(recipe), "--part", f"{part}/3")
            assert done.returncode == 0, done.stderr
        assert sealed(tmp_path / "parts" / "test" / stage) == sealed(whole / stage)
    refused = retort(tmp_path / "parts", "filter", str(recipe), "--part", "3/3")
    assert refused.returncode == 2
    assert "--part 3/3: write the number of this part, from 0" in refused.stderr
