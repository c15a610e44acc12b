"""The train stage without its subprocess: checks of the recipe, the command, the log, the report."""

from __future__ import annotations

import json
import re
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import install_hints
from pipeline.check import fit
from pipeline.engine.changed_settings import check_settings, claim, is_current, manifest_of
from pipeline.engine.manifest import Manifest
from pipeline.errors import UserError
from pipeline.model_rows import Step
from pipeline.train.job import Preflight, PreflightCheck, TrainJob, last_step, preflight_lines, read_steps
from pipeline.train.launcher import command, environment
from pipeline.train.report import report
from pipeline.train.stage import TRAIN, check, check_room, model_folder, work
from tests import tiny_student
from tests.tiny_student import recipe, train_job


def step(number: int, loss: float = 1.0) -> Step:
    return Step(
        id=str(number),
        step=number,
        steps=9,
        epoch=0.5,
        loss=loss,
        learning_rate=1e-5,
        grad_norm=1.0,
        tokens=10 * number,
        seconds=0.1,
        tokens_per_second=None,
        validation_loss=None,
    )


def test_a_job_survives_its_file() -> None:
    files = (Path("/a/b.parquet"),)
    job = tiny_student.job(Path("/r/train"), "org/name", files, epochs=0.5, accelerate={"num_processes": 8})
    assert TrainJob.model_validate_json(job.model_dump_json()) == job
    assert job.log == Path("/r/train/log.jsonl")


def test_a_batch_size_that_micro_batches_do_not_divide_is_rejected() -> None:
    with pytest.raises(
        UserError, match=r"batch_size = 10 is not a multiple of micro_batch_size x processes = 4 x 1"
    ):
        check(recipe(batch_size=10, micro_batch_size=4))


def test_a_malformed_accelerate_argument_is_rejected() -> None:
    with pytest.raises(UserError, match="write arguments like num_processes = 8"):
        check(recipe(accelerate={"num_processes=2 --module evil": 1}))


def test_missing_libraries_are_named_with_an_install_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)  # as if it were not installed
    with pytest.raises(UserError, match=re.escape(f"training needs trl: {install_hints.extra('train')}")):
        check(recipe())


def test_a_run_without_training_examples_is_rejected_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no example to train on"):
        work(train_job(recipe(), tmp_path, [tiny_student.example(1, "validation")]), ())
    assert not (tmp_path / "logs").exists()


def test_a_trained_model_is_not_trained_again_and_checkpoints_are_deleted(tmp_path: Path) -> None:
    given = train_job(recipe(), tmp_path, [tiny_student.example(1)])
    given.output.save(Manifest(stage="train", version=1, settings={}, inputs={}, shards=("steps",)))
    model_folder(tmp_path).mkdir(parents=True)
    (tmp_path / "train" / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    lines = [step(1, loss=2.0), step(2, loss=0.5)]
    (tmp_path / "train" / "log.jsonl").write_text("".join(s.model_dump_json() + "\n" for s in lines))
    work(given, given.share())
    counts = report(given)
    assert (counts["first_loss"], counts["last_loss"], counts["steps"]) == (2.0, 0.5, 9)
    assert not (tmp_path / "train" / "checkpoints").exists()
    assert list(given.output.rows()) == lines


def test_a_student_whose_folder_was_trained_again_is_another_student(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"before")
    given = train_job(recipe(str(base)), tmp_path, [tiny_student.example(1)])
    claim(given, manifest_of(given))
    given.output.write("steps", [step(1)])
    given.output.finish()
    assert is_current(TRAIN, given.recipe, tmp_path)

    (base / "model.safetensors").write_bytes(b"after ")
    with pytest.raises(UserError, match='other settings: model_files: "'):
        check_settings(TRAIN, given.recipe, tmp_path)
    shutil.rmtree(base)  # what is made of it stays usable
    check_settings(TRAIN, given.recipe, tmp_path)
    assert is_current(TRAIN, given.recipe, tmp_path)


TABLE = Preflight(
    checks=(
        PreflightCheck(name="sound", value="2 of 2", ok=True),
        PreflightCheck(name="the end", value="1 of 2 \x1b[2J", ok=False, why="no end"),
    ),
    examples=2,
    left_out=("p1-0",),
    supervised=0.25,
    longest=80,
    example="q>>>a\x07<<<",
)


def test_the_preflight_report_is_shown_whole_without_control_characters() -> None:
    assert list(preflight_lines(TABLE)) == [
        "preflight: checks of the tokenized examples",
        "  ok   sound    2 of 2",
        r"  FAIL the end  1 of 2 \x1b[2J",
        "  one example, tokens with loss between >>> and <<<:",
        r"    q>>>a\x07<<<",
    ]


def test_the_report_contains_the_preflight_counts(tmp_path: Path) -> None:
    given = train_job(recipe(), tmp_path, [tiny_student.example(1)])
    given.output.save(Manifest(stage="train", version=1, settings={}, inputs={}, shards=("steps",)))
    model_folder(tmp_path).mkdir(parents=True)
    (tmp_path / "train" / "log.jsonl").write_text(step(1).model_dump_json() + "\n")
    (tmp_path / "train" / "preflight.json").write_text(TABLE.model_dump_json())
    work(given, given.share())
    assert report(given)["preflight"] == {"examples": 2, "left_out": 1, "supervised": 0.25, "longest": 80}


def test_too_little_disk_space_is_reported_with_both_sizes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(10**13)  # five trillion parameters in a sparse file
    with pytest.raises(UserError, match=r"200000.0 GB needed for checkpoints and model, \d+\.\d GB free"):
        check_room(tiny_student.job(tmp_path, tmp_path), tmp_path, most=7)
    check_room(tiny_student.job(tmp_path, Path("org/name")), tmp_path, most=7)


def test_a_resumed_training_needs_no_room_for_the_checkpoints_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"dtype": "bfloat16"}))
    job = tiny_student.job(tmp_path / "train", tmp_path)
    kept = job.checkpoints / "checkpoint-50"
    kept.mkdir(parents=True)
    for path, size in ((tmp_path / "model.safetensors", 2000), (kept / "model.safetensors", 24_000)):
        with path.open("wb") as file:
            file.truncate(size)  # 1000 parameters, of which training needs 40 bytes each
    for free, state in ((16_000, "ok"), (15_999, "missing")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        monkeypatch.setattr("pipeline.inference.model_cache.free", lambda _, free=free: free)
        with nullcontext() if state == "ok" else pytest.raises(UserError, match="not enough disk space"):
            check_room(job, tmp_path, most=7)
        assert fit.disk(tmp_path, 1000, job.train).state == state


def test_accelerate_arguments_of_the_recipe_replace_the_defaults(tmp_path: Path) -> None:
    line = command({"num_processes": 8, "use_fsdp": True, "quiet": False}, tmp_path / "job.json")
    prepare = ["-P", "-m", "pipeline.train.trainer.prepare", str(tmp_path / "job.json")]
    assert line[:9] == [sys.executable, *prepare, sys.executable, "-P", "-m", "accelerate.commands.launch"]
    assert line[-3:] == ["-m", "pipeline.train.trainer.launch", str(tmp_path / "job.json")]
    assert "--num_processes=8" in line
    assert "--num_processes=1" not in line
    assert "--use_fsdp" in line
    assert "--quiet" not in line


def test_a_local_model_is_trained_offline(tmp_path: Path) -> None:
    assert environment(tiny_student.job(tmp_path, tmp_path))["HF_HUB_OFFLINE"] == "1"


def test_an_incomplete_line_of_the_log_is_skipped(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert (read_steps(log), last_step(log)) == ([], None)
    log.write_text(step(1).model_dump_json() + "\n" + step(2).model_dump_json() + '\n{"id": "3", "st')
    assert [s.step for s in read_steps(log)] == [1, 2]
    assert last_step(log) == step(2)
