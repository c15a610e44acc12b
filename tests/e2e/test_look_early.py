"""The first traces can be read seconds after they were written, during generate and after a kill."""

import json
import signal
import time
from pathlib import Path

from pipeline import open_run
from tests.conftest import StartFakeServer
from tests.e2e.runs import PROBLEMS, SAMPLES, retort, run_stages, start, write_recipe


def test_a_run_is_read_while_it_samples_and_after_its_process_is_killed(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    recipe = str(write_recipe(tmp_path, fake_server("--latency", "0.4").url))
    run_stages(tmp_path, recipe, "ingest")
    process = start(tmp_path, "generate", recipe, "generate.concurrency=4")
    run_dir = tmp_path / "test"
    run = open_run(run_dir)
    until = time.monotonic() + 60
    while not (seen := len(run.traces)) and time.monotonic() < until:
        time.sleep(0.05)
    assert process.poll() is None, "the whole stage was over before it was looked at"
    assert 0 < seen < PROBLEMS * SAMPLES
    assert {t.outcome for t in run.traces} == {"unfiltered"}
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(run.traces) >= seen

    shown = json.loads(retort(tmp_path, "show", "test", "-n", "1", "--json").stdout)
    assert shown["rows"][0]["stage"] == "generate"
    one = retort(tmp_path, "show", "test", "--id", shown["rows"][0]["row"]["id"])
    assert shown["rows"][0]["row"]["question"] in one.stdout
    why = json.loads(retort(tmp_path, "why", "test", "--json").stdout)
    assert why["preview_of"] == why["funnel"]["traces"] == len(run.traces)
    assert not (run_dir / "filter").exists()
    assert retort(tmp_path, "report", "test").returncode == 0
    assert f"{len(run.traces)} traces so far" in (run_dir / "report.html").read_text()

    assert retort(tmp_path, "generate", recipe).returncode == 0
    assert retort(tmp_path, "filter", recipe).returncode == 0
    assert run.so_far() is None
    assert len(run.traces) == PROBLEMS * SAMPLES == len(run.traces.where("outcome != 'unfiltered'"))
