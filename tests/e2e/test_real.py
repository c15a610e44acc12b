"""The whole pipeline with a real vLLM, the small model and a training, reduced to a few minutes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import open_run
from tests.e2e.runs import ROOT, retort, start

SMALL = (
    "ingest.sources.0.limit=24",
    "ingest.sources.1.size=12",
    "ingest.shard_size=16",
    "generate.samples=4",
    "generate.max_tokens=48",  # truncates some reasoning, which is then continued
    "generate.max_continuations=1",
    "generate.logprobs=3",
    "evaluate.samples=1",
    "train.epochs=1",
    "train.save_steps=2",
    "train.batch_size=4",
    "train.micro_batch_size=4",
)


@pytest.mark.alone
def test_the_demo_recipe_runs_from_problems_to_the_table(tmp_path: Path) -> None:
    recipe = str(ROOT / "pipeline/recipes/demo.toml")
    done = retort(tmp_path, "run", recipe, *SMALL, seconds=1500)
    assert done.returncode == 0, done.stderr
    for word in ("teacher", "base", "student", "pass@1"):
        assert word in done.stdout

    run = open_run(tmp_path / "demo")
    assert all(
        run.output(stage).complete
        for stage in ("ingest", "generate", "filter", "select", "train", "evaluate")
    )
    assert {"words", "figures"} == {trace.source for trace in run.traces}
    assert run.report("filter")["kept"] > 0
    for trace in run.traces:
        kept = trace.logprobs
        assert kept
        assert len(kept.tokens) == len(kept.logprobs) == len(kept.top_tokens) / 3 >= 1
        assert all(lp <= 0 for lp in kept.logprobs)
        assert min(kept.tokens) >= 0
        assert 0 <= kept.reasoning_tokens <= len(kept.tokens)
    assert any(trace.continuations and trace.finish_reason == "stop" for trace in run.traces)
    held_out = sum(problem.split == "held_out" for problem in run.problems)
    assert len(run.scores) == 3 * held_out
    losses = [step.loss for step in run.rows("train") if step.loss is not None]
    assert losses
    assert (tmp_path / "demo/train/model/config.json").exists()

    again = retort(tmp_path, "run", recipe, *SMALL, seconds=60)
    assert again.returncode == 0
    assert again.stderr.count("done already") == 6
    assert again.stdout == done.stdout
    answers_over_http(tmp_path)


def answers_over_http(runs: Path) -> None:
    """The student is served, answers a question from a pipe, and the server ends at Ctrl-C."""
    server = start(runs, "serve", "demo", "--port", "0")
    try:
        assert server.stdout
        url = server.stdout.readline().split()[1]
        words = [sys.executable, "-m", "pipeline", "--runs", str(runs), "chat", "demo", "--base-url", url]
        asked = subprocess.run(
            words, cwd=ROOT, input="What is 2 + 3?", capture_output=True, text=True, timeout=120
        )
        assert asked.returncode == 0, asked.stderr
        assert (asked.stdout + asked.stderr).strip()  # the answer, or its reasoning
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.communicate()
