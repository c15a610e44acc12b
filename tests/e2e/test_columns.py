"""Columns of a source from the file to the published data set, and local copies of benchmarks as sets."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import open_run
from pipeline.config.benchmarks import BENCHMARKS
from tests.conftest import StartFakeServer
from tests.e2e.runs import retort, run_stages
from tests.stand_in_hub import Hub

PROMPT = "[user]\nA question of level {{ level }} about {{ columns.topic }}:\n{{ question }}\n"
RECIPE = """
run = "test"
[ingest]
held_out = 0.0
shard_size = 8
[[ingest.sources]]
kind = "file"
path = "{folder}/sums.jsonl"
[teacher]
model = "fake"
base_url = "{url}"
[generate]
prompt = "{folder}/levels.txt"
samples = 2
[filter.rules.columns]
keep = {{ level = [2, 3] }}
[evaluate]
samples = 2
teacher_prompt = "plain"
"""
GPQA = ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
SUMS = [(3 + i, 4 + i) for i in range(12)]


def write_inputs(folder: Path, url: str) -> str:
    """Writes sums with levels, and copies in the form of GPQA and MMLU-Pro whose questions are sums."""
    rows = [
        {"question": f"What is {a} + {b}?", "answer": str(a + b), "level": 1 + i % 3, "topic": "sums"}
        for i, (a, b) in enumerate(SUMS)
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with (folder / "gpqa.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*GPQA, "High-level domain", "Subdomain"])
        for a, b in SUMS:
            table.writerow([f"What is {a} + {b}?", *(a + b + i for i in range(4)), "Sums", "Two terms"])
    options = [
        {
            "question": f"What is {a} + {b}?",
            "options": [str(a + b + i - 2) for i in range(10)],
            "answer": "C",
            "category": "sums",
        }
        for a, b in SUMS
    ]
    (folder / "mmlu_pro").mkdir()
    pq.write_table(pa.Table.from_pylist(options), folder / "mmlu_pro" / "test.parquet")
    (folder / "levels.txt").write_text(PROMPT)
    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=folder, url=url))
    return str(recipe)


def test_columns_reach_prompts_rules_queries_and_the_published_set(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server("--correct", "1", "--malformed", "0", "--truncated", "0")
    recipe = write_inputs(tmp_path, server.url)
    run_stages(tmp_path, recipe, "ingest", "generate", "filter", "select")
    run = open_run(tmp_path / "test")
    kept = run.traces.where(outcome="kept")
    assert {trace.column_values["level"] for trace in kept} == {2, 3}
    assert len(kept) == len(run.traces.where(columns={"level": [2, 3]})) == 2 * len(SUMS) * 2 // 3
    assert run.why().rejected == {"columns: other_value": 2 * len(SUMS) // 3}
    shown = retort(tmp_path, "show", "test", "--where", "columns->>'level' = '1'", "--json", "-n", "50")
    rows = json.loads(shown.stdout)["rows"]
    assert {json.loads(row["row"]["columns"])["level"] for row in rows} == {1}
    assert len(rows) == 2 * len(SUMS) // 3
    done = retort(tmp_path, "publish", "test", "--to", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    found = [pq.read_table(path) for path in (tmp_path / "out/data").glob("*.parquet")]
    assert {str(table.schema.field("columns").type) for table in found} == {
        "struct<level: int64, topic: string>"
    }
    assert {row["level"] for table in found for row in table["columns"].to_pylist()} == {2, 3}


def test_a_column_that_some_problems_lack_stops_before_the_first_request(
    tmp_path: Path, fake_server: StartFakeServer
) -> None:
    server = fake_server()
    recipe = write_inputs(tmp_path, server.url)
    (tmp_path / "levels.txt").write_text("[user]\n{{ question }} {{ difficulty }}\n")
    run_stages(tmp_path, recipe, "ingest")
    done = retort(tmp_path, "generate", recipe)
    assert (done.returncode, done.stderr.strip().count("\n")) == (2, 0), done.stderr
    counted = f"{len(SUMS)} of {len(SUMS)} problems"
    assert f"cannot be filled for {counted}: 'difficulty' is undefined" in done.stderr
    assert server.stats()["requests"] == 0


def test_copies_of_benchmarks_are_scored_as_sets(tmp_path: Path, fake_server: StartFakeServer) -> None:
    server = fake_server("--correct", "1", "--malformed", "0", "--truncated", "0")
    recipe = write_inputs(tmp_path, server.url)
    run_stages(tmp_path, recipe, "ingest")
    names = f"gpqa_diamond={tmp_path}/gpqa.csv,mmlu_pro={tmp_path}/mmlu_pro"
    settings = ("evaluate.held_out=false", "evaluate.max_tokens=64")
    done = retort(tmp_path, "evaluate", recipe, "--problems", names, *settings)
    assert done.returncode == 0, done.stderr
    run = open_run(tmp_path / "test")
    scores = list(run.scores)
    assert {(s.set, s.correct, s.samples) for s in scores} == {("gpqa_diamond", 2, 2), ("mmlu_pro", 2, 2)}
    assert len(scores) == 2 * len(SUMS)
    answered = run.rows("evaluate/gpqa_diamond/teacher/filter")
    assert len({trace.reference for trace in answered} & set("ABCD")) > 2  # they are shuffled
    assert {trace.column_values["Subdomain"] for trace in answered} == {"Two terms"}
    wrong = retort(tmp_path, "evaluate", recipe, "--problems", "gpqa")
    assert (wrong.returncode, "did you mean 'gpqa_diamond'?" in wrong.stderr) == (2, True), wrong.stderr
    missing = retort(tmp_path, "evaluate", recipe, "--problems", f"math500={tmp_path}/none.jsonl")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1), missing.stderr


def test_a_benchmark_is_read_from_the_hub_at_its_commit(tmp_path: Path, fake_server: StartFakeServer) -> None:
    server = fake_server("--correct", "1", "--malformed", "0", "--truncated", "0")
    name = "datasets/HuggingFaceH4/MATH-500"
    rows = [
        {"problem": f"What is {a} + {b}?", "answer": str(a + b), "subject": "Sums", "level": 1}
        for a, b in SUMS
    ]
    words = ("evaluate", "--model", "fake", "--base-url", server.url, "--problems", "math500")
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    with Hub() as hub:
        hub.files[name] = {"test.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}
        done = retort(tmp_path, *words, "evaluate.samples=1", env=env | {"HF_ENDPOINT": hub.url})
        revision = BENCHMARKS["math500"]["revision"]
        assert f"/api/{name}/revision/{revision}" in hub.asked
    assert done.returncode == 0, done.stderr
    scores = list(open_run(tmp_path / "fake-math500").scores)
    assert {(s.set, s.correct) for s in scores} == {("math500", 1)}
    assert len(scores) == len(SUMS)
    offline = retort(tmp_path, *words, "run=other", env=env | {"HF_HUB_OFFLINE": "1"})
    assert (offline.returncode, offline.stderr.count("\n")) == (2, 1), offline.stderr
    assert "data set HuggingFaceH4/MATH-500: " in offline.stderr
