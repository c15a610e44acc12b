"""What is checked of teachers that are served here, for all stages that ask them."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pipeline.check import requirements
from pipeline.config.endpoints import Teacher
from pipeline.config.evaluate import Evaluate
from pipeline.train.model_facts import ModelFacts
from tests import tiny_student


def test_a_teacher_needs_room_for_the_answers_of_each_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Teacher(model="teacher", serve="vllm", vllm={"max_model_len": 8192})
    evaluate = Evaluate(models=("teacher",), max_tokens=16_384)
    recipe = tiny_student.recipe().model_copy(update={"teacher": (served,), "evaluate": evaluate})
    monkeypatch.setattr(requirements.model_facts, "read_facts", lambda _: [ModelFacts(name="teacher")])
    monkeypatch.setattr(requirements.model_files, "resolve", lambda name, _: name)
    found = requirements._models(recipe, Path(), ["generate", "evaluate"])
    lengths = [each.detail for each in itertools.islice(found, 3) if each.what == "length"]
    assert lengths == [
        "evaluate.max_tokens = 16384 leaves no room for a question in vllm.max_model_len = 8192"
    ]
