"""The whole pipeline with a real vLLM, the small model and a training, reduced to a few minutes."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import open_run
from pipeline.inference import model_files
from pipeline.inspect.run import Run
from tests.e2e.runs import ROOT, retort, start

SMALL = (
    "ingest.sources.0.limit=24",
    "ingest.sources.1.size=12",
    "ingest.shard_size=16",
    "generate.samples=4",
    "generate.max_tokens=48",  # truncates some reasoning, which is then continued
    "generate.max_continuations=1",
    "generate.logprobs=true",
    "train.objective=topk_kd",
    "train.topk_kd.top_k=5",
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
        assert len(kept.logprobs) >= 1
        assert all(lp <= 0 for lp in kept.logprobs)
        assert 0 <= kept.reasoning_tokens <= len(kept.logprobs)
    assert any(trace.continuations and trace.finish_reason == "stop" for trace in run.traces)
    labels_agree_with_a_forward_pass(run)
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


def labels_agree_with_a_forward_pass(run: Run) -> None:
    """vLLM's soft labels equal those of transformers, up to the rounding of bfloat16 in other kernels."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = model_files.resolve(run.recipe.teacher[0].model, print)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    messages = {example.id: example.messages for example in run.rows("select")}
    rows = list(run.rows("train/labels"))
    assert rows
    for row in rows[:8]:
        dialogue = [message.model_dump() for message in messages[row.id]]
        ids = tokenizer.apply_chat_template(dialogue, return_dict=True)["input_ids"]
        assert ids[-len(row.tokens) :] == list(row.tokens)
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        logprobs = logprobs[-len(row.tokens) - 1 : -1]
        top = torch.tensor(row.top_tokens).view(-1, row.k)
        found = torch.tensor(row.top_logprobs).view(-1, row.k)
        own = logprobs.gather(1, torch.tensor([row.tokens]).T)[:, 0]
        assert (logprobs.gather(1, top) - found).abs().mean() < 0.1
        assert (own - torch.tensor(row.logprobs)).abs().mean() < 0.1


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
