"""The commands that read runs: their JSON and their text, diff, completion, and the help."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.cli.main import cli
from pipeline.cli.sections import SECTIONS
from pipeline.engine import checksums
from pipeline.engine.manifest import Manifest
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.generate import usage
from pipeline.rows import SoftLabels, Trace, TraceVerdicts
from tests.small_run import PROBLEMS, SAMPLES, SHARDS, write_run

OBJECTIVES = ["logit_kd", "on_policy", "redi", "sft", "topk_kd"]
TRACES = SHARDS * PROBLEMS * SAMPLES


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, and one that is unreadable."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "first")
    write_run(folder / "second", temperature=0.9, kept=2)
    (folder / "old").mkdir()
    (folder / "old" / "recipe.json").write_text("{}")
    return folder


def text(runs: Path, *words: str) -> str:
    done = CliRunner().invoke(cli, ["--runs", str(runs), *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def document(runs: Path, *words: str) -> dict[str, Any]:
    printed = text(runs, *words, "--json")
    assert printed.isascii()
    read: dict[str, Any] = json.loads(printed)
    return read


def test_status_of_a_folder_has_a_line_for_each_run_readable_or_not(runs: Path) -> None:
    lines = {line["run"]: line for line in document(runs, "status")["runs"]}
    assert set(lines["first"]) == {"run", "stages", "complete", "working_on", "kept", "unreadable"}
    assert lines["first"]["complete"] == ["ingest", "generate", "filter", "select", "evaluate"]
    assert lines["second"]["kept"] == 2 * TRACES // SAMPLES
    assert "not of this version" in lines["old"]["unreadable"]
    assert "not of this version" in text(runs, "status")


def test_the_progress_of_several_workers_is_their_sum(tmp_path: Path) -> None:
    write_run(tmp_path / "several")
    folder = tmp_path / "several" / "generate"
    used = usage.EndpointUsage(
        teacher="t", requests=9, retries={"429": 2}, prompt_tokens=1, completion_tokens=500, spend=1.5
    )
    attempt = usage.Attempt(began="", seconds=10, line="generate: 1/2", endpoints=(used,))
    for number, age in enumerate((0, 1, 60)):  # the last one has ended
        path = folder / f"usage.{number}.json"
        path.write_bytes(checksums.document(json.dumps({"attempts": [attempt.model_dump()]}).encode()))
        os.utime(path, (time.time() - age,) * 2)
    said = f"generate: 2 workers, {TRACES} rows, 100 tokens/s, 4 retries, 4.50 spent"
    with Output(folder, Trace).lock():
        assert document(tmp_path, "status", "several")["progress"] == [said]
    assert document(tmp_path, "status", "several")["progress"] == []


def test_clean_deletes_earlier_results_but_paid_rows_only_if_told_to(tmp_path: Path) -> None:
    write_run(tmp_path / "old")
    earlier = [tmp_path / "old" / "previous" / name / "0001" for name in ("filter", "generate")]
    for folder in earlier:
        shutil.copytree(tmp_path / "old" / folder.parent.name, folder)
    begun = tmp_path / "old" / "previous" / "select" / "0001"  # of an interrupted move
    begun.mkdir(parents=True)
    foretold = text(tmp_path, "clean", "old", "--dry-run").splitlines()
    assert all(folder.exists() for folder in earlier)
    with (
        Output(tmp_path / "old" / "filter", TraceVerdicts).lock(),
        pytest.raises(UserError, match="works on"),
    ):
        text(tmp_path, "clean", "old")
    filtered, sampled, freed = text(tmp_path, "clean", "old").splitlines()
    assert foretold == [filtered, sampled, freed.replace("are", "would be")]
    assert [filtered[:21], sampled[:23]] == ["previous/filter/0001:", "previous/generate/0001:"]
    assert "--paid" in sampled
    assert [folder.exists() for folder in earlier] == [False, True]
    text(tmp_path, "clean", "old", "--paid")
    assert [folder.exists() for folder in (*earlier, begun)] == [False, False, True]
    assert text(tmp_path, "clean", "old").splitlines() == ["0 MB are freed"]


def test_clean_keeps_the_labels_that_a_teacher_was_paid_for(tmp_path: Path) -> None:
    write_run(tmp_path / "old")
    labels = Output(tmp_path / "old" / "previous" / "train" / "labels" / "0001", SoftLabels)
    labels.save(Manifest(stage="train/labels", version=1, settings={}, inputs={}, shards=()))
    text(tmp_path, "clean", "old")
    assert labels.folder.exists()


def test_status_of_a_run_has_the_same_content_as_json_and_as_text(runs: Path) -> None:
    status = document(runs, "status", "first")
    assert list(status) == [
        *("run", "folder", "stages", "progress", "filtered", "costs", "usage", "requests", "limits"),
        *("scores", "comparisons", "compression", "chain", "diversity", "generation"),
    ]
    assert {s["stage"]: s["rows"] for s in status["stages"]}["generate"] == TRACES
    assert status["filtered"]["rejected"] == {"correct: incorrect": TRACES * 2 // SAMPLES}
    assert sum(c["kept"] for c in status["costs"]) == status["filtered"]["kept"]
    assert status["scores"][0]["pass_at"]["1"][0] == pytest.approx(1 / SAMPLES)
    printed = text(runs, "status", "first")
    assert f"{TRACES} traces: {TRACES // SAMPLES} kept" in printed
    assert "33.3 %" in printed


def test_why_has_the_funnel_and_examples(runs: Path) -> None:
    why = document(runs, "why", "first", "-n", "1")
    assert list(why)[:4] == ["run", "stage", "funnel", "examples"]
    assert (why["unfiltered"], why["preview_of"], why["left_out"]) == (0, None, [])
    assert why["funnel"]["rules"]["correct"]["failed_alone"] == TRACES * 2 // SAMPLES
    assert [list(seen) for seen in why["examples"]["correct: incorrect"]] == [["id", "evidence", "reference"]]
    assert "rejected, correct: incorrect" in text(runs, "why", "first")


def test_show_finds_rows_by_outcome_reason_source_and_stage(runs: Path) -> None:
    rows = document(runs, "show", "first", "--reason", "incorrect", "--source", "others", "-n", "100")["rows"]
    assert len(rows) == SHARDS * (SAMPLES - 1)
    assert {(r["stage"], r["row"]["reason"], r["row"]["source"]) for r in rows} == {
        ("filter", "correct: incorrect", "others")
    }
    kept = document(runs, "show", "first", "--kept", "-n", "2")["rows"]
    assert [r["row"]["outcome"] for r in kept] == ["kept"] * 2
    assert document(runs, "show", "first", "--stage", "select")["rows"][0]["row"]["messages"]


def test_show_finds_a_trace_a_problem_and_a_row_of_a_stage_by_id(runs: Path) -> None:
    trace = document(runs, "show", "first", "-n", "1")["rows"][0]["row"]
    (by_id,) = document(runs, "show", "first", "--id", trace["id"])["rows"]
    assert by_id == {"stage": "filter", "row": trace}
    whole = document(runs, "show", "first", "--id", trace["problem_id"])["rows"]
    assert [r["stage"] for r in whole] == ["problem"] + ["filter"] * SAMPLES
    (generated,) = document(runs, "show", "first", "--stage", "generate", "--id", trace["id"])["rows"]
    assert generated["row"]["outcome"] == "unfiltered"


def test_show_keeps_long_texts_whole_in_a_pipe_and_cannot_drive_the_terminal(runs: Path) -> None:
    printed = text(runs, "show", "first", "-n", "1")
    assert "<script>alert(1)</script>\\x1b[2J\\u202e" in printed
    assert "\x1b" not in printed
    assert max(map(len, printed.splitlines())) > 160


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("show", "first", "--stage", "select", "--kept"), "holds no traces"),
        (("show", "first", "--stage", "scores"), "no stage 'scores'"),
        (
            ("show", "first", "--stage", "evaluate/held_out/techer/filter"),
            "there is no .*known:|did you mean",
        ),
        (("why", "first", "--stage", "evaluate/held_out/techer/filter"), "there is no .*known:|did you mean"),
        (("show", "first", "--id", "nothing"), "no problem has the id"),
        (("show", "first", "--stage", "filter", "--id", "nothing"), "has no row with the id"),
        (("show", "first", "--reason", "rong"), "no trace was decided by 'rong'"),
        (("diff", "first", "third"), "no run there; runs in that folder: first, old, second"),
    ],
)
def test_mistakes_are_reported_in_one_line(runs: Path, words: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        text(runs, *words)


def test_diff_names_settings_yield_cost_and_paired_scores(runs: Path) -> None:
    diff = document(runs, "diff", "first", "second")
    assert list(diff) == ["a", "b", "settings", "same", "scores", "diversity"]
    assert diff["settings"] == [{"where": "generate", "setting": "temperature", "a": 0.6, "b": 0.9}]
    assert diff["same"] == ["ingest"]
    assert (diff["a"]["kept"], diff["b"]["kept"]) == (TRACES // SAMPLES, 2 * TRACES // SAMPLES)
    assert diff["a"]["spend"] == pytest.approx(2.0 * diff["a"]["completion_tokens"] / 1e6)
    (score,) = diff["scores"]
    assert (score["set"], score["model_role"], score["problems"]) == (
        "held_out",
        "teacher",
        SHARDS * PROBLEMS,
    )
    assert score["difference"][0] == pytest.approx(1 / SAMPLES)
    printed = text(runs, "diff", "first", "second")
    assert "temperature: 0.6 -> 0.9" in printed
    assert "33.3 % -> 66.7 %, +33.3 points" in printed


def test_diff_shows_no_counts_of_a_run_that_is_not_filtered(tmp_path: Path) -> None:
    for name in ("sampled", "filtered"):
        write_run(tmp_path / name)
    shutil.rmtree(tmp_path / "sampled" / "filter")
    lines = text(tmp_path, "diff", "sampled", "filtered").splitlines()
    (incorrect,) = (line for line in lines if "rejected, correct: incorrect" in line)
    assert incorrect.split()[3:] == ["-", "24", "(66.7", "%)"]


def test_diff_of_a_run_with_itself_finds_nothing(runs: Path) -> None:
    diff = document(runs, "diff", "first", "first")
    assert diff["settings"] == []
    assert diff["same"] == ["ingest", "generate", "filter", "select", "evaluate"]
    assert "no setting differs" in text(runs, "diff", "first", "first")


def completed(runs: Path, *words: str) -> list[str]:
    """The completions that bash gets for the last word."""
    asked = {
        "COMP_WORDS": " ".join(("retort", "--runs", str(runs), *words)),
        "COMP_CWORD": str(len(words) + 2),
        "_RETORT_COMPLETE": "bash_complete",
    }
    command = [sys.executable, "-m", "pipeline"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=True)
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_the_shell_completes_names_from_the_runs(runs: Path) -> None:
    assert completed(runs, "show", "f") == ["first"]
    assert completed(runs, "diff", "first", "s") == ["second"]
    assert "--rejected" in completed(runs, "show", "first", "--re")
    assert completed(runs, "show", "first", "--stage", "fi") == ["filter"]
    assert completed(runs, "show", "first", "--reason", "c") == ["correct"]
    assert completed(runs, "show", "old", "--source", "s") == []
    assert completed(runs, "run", "pipeline/recipes/de") == ["pipeline/recipes/demo.toml"]


def test_the_shell_completes_recipes_settings_and_values(runs: Path) -> None:
    assert completed(runs, "check", "gsm") == ["gsm8k"]
    assert "generate." in completed(runs, "run", "demo", "")
    assert completed(runs, "run", "demo", "generate.sa") == ["generate.samples="]
    assert completed(runs, "run", "demo", "ingest.sources.0.kin") == ["ingest.sources.0.kind="]
    assert completed(runs, "run", "demo", "filter.rules.no_l") == ["filter.rules.no_leak="]
    # bash ends a word at "=", zsh and fish do not.
    assert completed(runs, "run", "demo", "train.packing", "=", "t") == ["true"]
    assert completed(runs, "run", "demo", "train.objective", "=") == ["dpo", *OBJECTIVES]
    assert completed(runs, "run", "demo", "train.objective=d") == ["train.objective=dpo"]
    assert completed(runs, "run", "demo", "generate.nothing=") == []


def test_bash_adds_no_blank_to_a_setting(runs: Path) -> None:
    script = """
        eval "$(retort completion bash)"; compopt() { echo "$2"; }
        COMP_WORDS=(retort run demo generate.sa); COMP_CWORD=3; _retort_completion retort; echo "$COMPREPLY"
        COMPREPLY=(); COMP_WORDS=(retort run dem); COMP_CWORD=2; _retort_completion retort; echo "$COMPREPLY"
    """
    retort = runs / "retort"
    retort.write_text(f'#!/bin/sh\nexec {sys.executable} -m pipeline "$@"\n')
    retort.chmod(0o755)
    path = f"{runs}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["nospace", "generate.samples=", "demo"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(runs: Path, shell: str) -> None:
    script = text(runs, "completion", shell)
    assert "_RETORT_COMPLETE" in script
    assert f"{shell}_complete" in script
    assert ("[.=/]" in script) == (shell != "fish")  # words that go on; fish knows them


def test_help_fits_80_columns_and_no_short_help_is_shortened() -> None:
    commands = {name: short for section in SECTIONS.values() for name, short in section.items()}
    assert sorted(commands) == sorted(cli.commands)
    assert max(map(len, commands.values())) <= 40
    printed = CliRunner().invoke(cli, ["--help"], terminal_width=80).stdout
    assert max(map(len, printed.splitlines())) <= 80
    assert [short for short in commands.values() if f" {short}\n" not in printed] == []


def test_completion_loads_neither_arrow_nor_the_recipe_models() -> None:
    probe = (
        "import sys; from pipeline.cli.main import cli; from pipeline.cli import shell_completion;"
        "print([m for m in ('pyarrow', 'pydantic', 'rich', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
