"""Which training examples a scheme is calibrated on."""

import json
from pathlib import Path

import pytest

from pipeline.compress import calibration
from pipeline.engine.store import Output
from pipeline.errors import UserError
from pipeline.rows import Example
from tests import tiny_student


def select(folder: Path, *splits: str) -> Output:
    job = tiny_student.train_job(
        tiny_student.recipe(), folder, [tiny_student.example(n, split) for n, split in enumerate(splits)]
    )
    return job.inputs["select"]


def test_all_examples_are_used_where_there_are_few(tmp_path: Path) -> None:
    given = select(tmp_path, "train", "validation", "train")
    calibration.write(given, 8, tmp_path / "calibration.jsonl")
    lines = (tmp_path / "calibration.jsonl").read_text().splitlines()
    expected = [tiny_student.example(n) for n in (0, 2)]
    assert [json.loads(line) for line in lines] == [[m.model_dump() for m in e.messages] for e in expected]


def test_of_many_examples_evenly_spaced_ones_are_used(tmp_path: Path) -> None:
    given = select(tmp_path, *["train"] * 10)
    found = list(calibration.chosen(given, 4))
    assert found == [[m.model_dump() for m in tiny_student.example(n).messages] for n in (0, 2, 5, 7)]


def test_the_question_of_the_checks_is_the_shortest_prompt(tmp_path: Path) -> None:
    given = select(tmp_path, *["train"] * 12)
    (message,) = calibration.shortest_prompt(given)
    examples: list[Example] = list(given.rows())
    shortest = min(examples, key=lambda example: sum(len(m.content) for m in example.messages))
    assert message == shortest.messages[0].model_dump()


def test_without_a_training_example_there_is_nothing_to_calibrate_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training example"):
        list(calibration.chosen(select(tmp_path, "validation"), 4))
