"""Examples are tokenized once, before any process trains, and reused while their key is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.train import Train
from pipeline.errors import UserError
from pipeline.train.job import Prepared, TrainJob, read_preflight
from tests import tiny_student

pytest.importorskip("trl")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_student.save(tmp_path_factory.mktemp("tiny") / "student")


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.engine import worker_pool

    monkeypatch.setattr(worker_pool, "cores", lambda: [0])


def write_job(folder: Path, student: Path, **train: Any) -> TrainJob:
    numbers = [range(3), range(0), range(3, 7), range(7, 10)]
    files = []
    for at, of in enumerate(numbers):
        rows = [tiny_student.example(n, "validation" if n == 5 else "train") for n in of]
        files.append(tiny_student.write_examples(folder / f"{at}.parquet", rows))
    return tiny_student.job(folder, student, tuple(files), **train)


def times(job: TrainJob) -> dict[str, int]:
    """When each part was written."""
    return {path.name: path.stat().st_mtime_ns for path in job.cache.glob("*.arrow")}


def splits(job: TrainJob) -> Any:
    from pipeline.train.trainer import data

    return data.splits(Prepared.model_validate_json(job.prepared.read_bytes()).files, job.train)


def test_examples_of_all_files_are_tokenized_in_order(student: Path, tmp_path: Path) -> None:
    from pipeline.train.trainer.loss_mask import tokens_of
    from pipeline.train.trainer.prepare import prepare

    job = write_job(tmp_path, student)
    prepare(job)
    made = splits(job)
    assert made["train"]["id"][:] == [f"p{n}-0" for n in range(10) if n != 5]
    assert made["validation"]["id"][:] == ["p5-0"]
    for row in made["train"]:
        (expected,) = tokens_of([row], tiny_student.tokenizer(pad_token="<|endoftext|>"))
        assert row["input_ids"] == expected["input_ids"].tolist()
        assert row["labels"] == expected["labels"].tolist()
    table = read_preflight(job.preflight)
    assert table
    assert (table.examples, table.failed) == (10, ())
    assert "10 of 10 examples" in {check.value for check in table.checks}


def test_complete_parts_are_reused_and_interrupted_ones_written_again(student: Path, tmp_path: Path) -> None:
    from pipeline.train.trainer.prepare import prepare

    job = write_job(tmp_path, student)
    prepare(job)
    first = times(job)
    assert len(first) == 3
    job.preflight.unlink()
    prepare(job)
    assert times(job) == first
    assert read_preflight(job.preflight)
    (job.cache / "00001.json").unlink()  # as a kill leaves it: tokens, but no report
    (job.cache / "tmpleft").mkdir()
    prepare(job)
    again = times(job)
    assert [name for name in sorted(again) if again[name] != first[name]] == ["00001.arrow"]
    assert not list(job.cache.glob("tmp*"))
    assert len(splits(job)["train"]) == 9


def other_examples(job: TrainJob, student: Path) -> TrainJob:
    tiny_student.write_examples(job.examples[0], [tiny_student.example(n) for n in (0, 1, 20)])
    return job


def other_template(job: TrainJob, student: Path) -> TrainJob:
    folder = tiny_student.save(job.output.parent / "other")
    (folder / "chat_template.jinja").write_text("\n" + tiny_student.CHATML)
    return job.model_copy(update={"model": str(folder)})


def other_length(job: TrainJob, student: Path) -> TrainJob:
    return job.model_copy(update={"train": Train(max_length=500)})


def another_served_template(job: TrainJob, student: Path) -> TrainJob:
    return job.model_copy(update={"served_template": tiny_student.CHATML})


@pytest.mark.parametrize(
    "change",
    [other_examples, other_template, other_length, another_served_template],
    ids=lambda f: f.__name__,
)
def test_anything_that_changes_tokens_or_checks_invalidates_the_cache(
    change: Callable[[TrainJob, Path], TrainJob], student: Path, tmp_path: Path
) -> None:
    from pipeline.train.trainer.prepare import prepare

    job = write_job(tmp_path, student)
    prepare(job)
    first = times(job)
    prepare(change(job, student))
    assert not set(first.values()) & set(times(job).values())


def test_settings_of_the_optimization_keep_the_cache(student: Path, tmp_path: Path) -> None:
    from pipeline.train.trainer.prepare import prepare

    job = write_job(tmp_path, student)
    prepare(job)
    first = times(job)
    prepare(job.model_copy(update={"train": Train(learning_rate=1.0, epochs=9, batch_size=32), "seed": 5}))
    assert times(job) == first


def test_a_failed_preflight_fails_again_from_the_cache(student: Path, tmp_path: Path) -> None:
    from pipeline.train.trainer.prepare import prepare

    job = write_job(tmp_path, student, max_length=16)
    for _ in range(2):
        with pytest.raises(UserError, match=r"10 of 10 examples are longer than train.max_length = 16"):
            prepare(job)
        assert not job.prepared.exists()
    assert read_preflight(job.preflight)


def test_an_example_that_the_template_refuses_is_named(student: Path, tmp_path: Path) -> None:
    from pipeline.train.trainer.prepare import prepare

    folder = tiny_student.save(tmp_path / "strict")
    refuses = "{% if '9 + 1' in messages[0]['content'] %}{{ raise_exception('no nines') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refuses + tiny_student.CHATML)
    with pytest.raises(UserError, match=r"example p8-0: the student's chat template refuses .* no nines"):
        prepare(write_job(tmp_path, folder))


def test_having_no_training_example_is_an_error(student: Path, tmp_path: Path) -> None:
    from pipeline.train.trainer.prepare import prepare

    job = write_job(tmp_path, student)
    none = tiny_student.write_examples(tmp_path / "none.parquet", [tiny_student.example(1, "validation")])
    with pytest.raises(UserError, match="there is no training example"):
        prepare(job.model_copy(update={"examples": (none,)}))


@pytest.mark.slow
def test_several_processes_write_the_same_bytes_as_one(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.engine import worker_pool
    from pipeline.train.trainer import prepare

    job = write_job(tmp_path, student)
    prepare.prepare(job)
    alone = [(job.cache / name).read_bytes() for name in sorted(times(job))]
    (job.cache / "key").unlink()
    monkeypatch.setattr(worker_pool, "cores", lambda: [0, 1])
    prepare.prepare(job)
    assert [(job.cache / name).read_bytes() for name in sorted(times(job))] == alone


def write_checkpoint(folder: Path, number: int) -> Path:
    from pipeline.train.checkpoints import mark_complete

    made = folder / f"checkpoint-{number}"
    (made / "shards").mkdir(parents=True)
    for name in ("model.safetensors", "shards/0.distcp"):
        (made / name).write_text("weights")
    mark_complete(made)
    return made


def emptied(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"")


def truncated(path: Path) -> None:
    (path / "shards" / "0.distcp").write_bytes(b"wei")


def deleted(path: Path) -> None:
    (path / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (emptied, "model.safetensors has 0 of 7 bytes"),
        (truncated, "shards/0.distcp has 3 of 7 bytes"),
        (deleted, "model.safetensors is missing"),
        (lambda path: (path / "complete").write_bytes(b"{"), "complete cannot be read"),
    ],
)
def test_a_damaged_checkpoint_is_reported_and_the_previous_one_is_used(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    from pipeline.train import checkpoints

    first, second = write_checkpoint(tmp_path, 5), write_checkpoint(tmp_path, 10)
    torn = tmp_path / "checkpoint-15"
    torn.mkdir()
    assert checkpoints.steps_saved(tmp_path) == 10
    damage(second)
    printed: list[str] = []
    checkpoints.remove_incomplete(tmp_path, printed.append)
    assert printed == [f"checkpoint-10 is damaged: {message}; resuming from checkpoint-5"]
    assert checkpoints.newest(tmp_path) == first
    assert not second.exists()
    assert not torn.exists()
    damage(first)
    checkpoints.remove_incomplete(tmp_path, printed.append)
    assert printed[1].endswith("; resuming from the start")


def test_a_marker_lists_every_file_with_its_size(tmp_path: Path) -> None:
    made = write_checkpoint(tmp_path, 5)
    assert json.loads((made / "complete").read_text()) == {"model.safetensors": 7, "shards/0.distcp": 7}
