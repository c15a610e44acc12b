"""What is known of models before anything is paid for: whether they fit each other and the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.inference.pruning import Pruning
from pipeline.train.model_facts import ModelFacts, ModelQuery
from tests import tiny_student

pytest.importorskip("trl")


def facts(student: Path, **asked: Any) -> ModelFacts:
    from pipeline.train.trainer.read_model import read_model

    return read_model(ModelQuery(name="student", model=str(student), **asked))


@pytest.mark.parametrize(
    ("pruning", "fault"),
    [
        ({"layers": 1}, ""),
        ({"heads": 2}, ""),
        ({"layers": 3}, "the model has 2 layers: 3 of them cannot be kept"),
        ({"heads": 3}, "LlamaForCausalLM cannot have 3 heads"),
        ({"intermediate_size": 129}, "the model has 128 MLP channels"),
    ],
)
def test_a_pruning_that_is_impossible_is_known_without_weights(
    tmp_path: Path, pruning: dict[str, int], fault: str
) -> None:
    found = facts(tiny_student.save(tmp_path / "student"), pruning=Pruning(**pruning)).pruning_fault
    assert found.startswith(fault)
    assert bool(found) == bool(fault)


def test_a_teacher_with_other_tokens_or_logits_is_known_without_weights(tmp_path: Path) -> None:
    student, teacher = (tiny_student.save(tmp_path / name) for name in ("student", "teacher"))
    assert facts(student, teachers=(str(teacher),), equal_logits=True).vocabulary_fault == ""

    config = teacher / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 259', '"vocab_size": 320'))
    assert facts(student, teachers=(str(teacher),)).vocabulary_fault == ""
    found = facts(student, teachers=(str(teacher),), equal_logits=True).vocabulary_fault
    assert "it has 320 logits and the student 259" in found

    other = tiny_student.tokenizer()
    other.add_tokens(["another"])
    other.save_pretrained(teacher)
    found = facts(student, teachers=(str(teacher),)).vocabulary_fault
    assert "its vocabulary is not the student's: 1 tokens differ, among them 'another'" in found
