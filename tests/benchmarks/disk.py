"""Disk space of the stages of a run: traces of the fake server, filtered and searched for duplicates.

    python -m tests.benchmarks.disk [--problems 750] [--words 1500]

Four traces per problem. Words of the fake server compress better than those of a model, so the traces of a
real run have a larger share.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.client import question

RECIPE = """
run = "bench"
[ingest]
held_out = 0.0
[[ingest.sources]]
kind = "file"
path = "{problems}"
[teacher]
model = "fake"
base_url = "{url}"
[generate]
prompt = "plain"
samples = 4
concurrency = 64
[filter.duplicates]
"""


def build(folder: Path, problems: int, words: int) -> None:
    """A run whose examples are selected."""
    source = folder / "problems.jsonl"
    rows = ({"question": question(i), "answer": str(2 * i)} for i in range(problems))
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = [sys.executable, "-m", "pipeline.fake_server", "--words", str(words)]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        recipe = folder / "recipe.toml"
        recipe.write_text(RECIPE.format(problems=source, url=process.stdout.readline().strip()))
        for stage in ("ingest", "generate", "filter", "select"):
            command = [sys.executable, "-m", "pipeline", "--runs", str(folder), stage, str(recipe)]
            subprocess.run(command, check=True)
        process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--problems", type=int, default=750)
    parser.add_argument("--words", type=int, default=1500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        build(Path(temporary), options.problems, options.words)
        sizes = {
            stage: sum(path.stat().st_size for path in (Path(temporary) / "bench" / stage).rglob("*.parquet"))
            for stage in ("generate", "filter", "select")
        }
    for stage, size in (sizes | {"all three": sum(sizes.values())}).items():
        print(f"{stage:10} {size / 1e6:7.2f} MB")


if __name__ == "__main__":
    main()
